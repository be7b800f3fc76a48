"""Which slides to learn from: a TOML or CSV file of slides, their labels, patients and splits.

    classes = ["background", "tumour"]          # dataset.toml

    [labels]
    mapping = {Tumor = "tumour"}                # names in the label files -> classes
    ignore = ["Artefact"]                       # neither learned from nor scored
    within = ["Region*"]                        # only inside these is everything annotated
    priority = ["background", "tumour"]         # where areas overlap, the later one counts
    allow_empty = true                          # a file without outlines: nothing to find

    [[slides]]
    slide = "a.svs"                             # paths count from the file's folder
    labels = "a.geojson"
    patient = "p1"
    split = "train"                             # train, val or test
    grade = 2                                   # any further columns, to sample or stratify by

A CSV has the columns `slide,labels,patient,split` and any others; its classes and label rules stand
in the configuration. A patient is in one split only, and so is a slide, whatever its files are
called.

Scans stand in `[[scans]]` with `scan` in place of `slide`, or in a column `scan`. Their labels are
volumes on the scan's own voxels, whose value k is class k unless `mapping` says otherwise:

    [labels]
    mapping = {1 = "liver", 7 = "lesion"}       # values in the label volumes -> classes
    ignore = ["255"]

    [[scans]]
    scan = ["t1.nii.gz", "t2.nii.gz"]           # a file, or one per channel of the card
    labels = "seg.nii.gz"
    split = "train"
"""

import csv
import hashlib
import io
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from wsiseg.annotations.labels import Labels, check_label_rules, open_labels
from wsiseg.engine import fingerprint
from wsiseg.errors import LabelError, MissingSpacingError, TrainingError
from wsiseg.source import Pyramid
from wsiseg.source import open as open_slide
from wsiseg.source.naming import stem_of

__all__ = ["Dataset", "LabelRules", "SlideEntry", "Split", "read_dataset"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

KEYS = frozenset({"slide", "scan", "labels", "patient", "split", "mpp"})
"""Columns with a meaning; all others describe."""

Mpp = float | tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class LabelRules:
    """How what label files say becomes classes; see `wsiseg.annotations.open_labels`."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    priority: tuple[str, ...] = ()
    """All classes, lowest first; none: in the order of `classes`."""

    allow_empty: bool = False
    """Annotations without any object say that there is nothing to find."""


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """One slide with its labels."""

    slide: Path
    labels: Path
    patient: str
    split: Split
    mpp: Mpp = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else the file says of it, such as grade or centre."""

    more: tuple[Path, ...] = ()
    """Of a scan: files of its further channels."""

    @property
    def name(self) -> str:
        """Name of the slide's file."""
        return self.slide.name

    def open(self) -> Pyramid:
        """Open the slide.

        Raises
        ------
        SourceError
            If it cannot be read, or its pixel size stands neither in it nor here.
        """
        try:
            pyramid = open_slide(self.slide, mpp=self.mpp)
            pyramid.spacing  # noqa: B018 - asked for here, where the remedy is known
        except MissingSpacingError as error:
            raise MissingSpacingError(
                f"{self.name}: no usable pixel size in the file; say it in the data set, for "
                "example mpp = 0.25 beside slide",
                path=self.slide,
            ) from error
        return pyramid


@dataclass(frozen=True, slots=True)
class Dataset:
    """Slides with labels, split by patient.

    Raises
    ------
    TrainingError
        If there are no slides, fewer than two classes, the label rules make no sense, a file is
        missing, a patient or slide is in two splits, or a slide is of two patients.
    """

    path: Path
    classes: tuple[str, ...]
    slides: tuple[SlideEntry, ...]
    rules: LabelRules = LabelRules()
    volumes: bool = False
    """Whether they are scans."""

    def __post_init__(self) -> None:
        if not self.slides:
            raise TrainingError(f"{self.path}: names no slide and no scan; add one with its labels")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise TrainingError(
                f"{self.path}: needed two classes or more, background first, all different; found "
                f"{list(self.classes)}"
            )
        for entry in self.slides:
            for path in (entry.slide, *entry.more, entry.labels):
                if not path.exists():
                    raise TrainingError(f"{self.path}: {path} is not there; correct the path")
        self._check_rules()
        self._refuse_leakage()

    def open_labels(self, entry: SlideEntry, slide: Pyramid) -> Labels:
        """Open the labels of one of the slides, by the rules of the data set.

        Raises
        ------
        AnnotationError
            If they cannot be read, or belong to another slide.
        """
        rules = self.rules
        return open_labels(
            entry.labels,
            slide,
            self.classes,
            mapping=rules.mapping,
            ignore=rules.ignore,
            within=rules.within,
            priority=rules.priority,
            allow_empty=rules.allow_empty,
        )

    def of(self, *splits: Split) -> tuple[SlideEntry, ...]:
        """Return the slides of some splits."""
        return tuple(entry for entry in self.slides if entry.split in splits)

    @property
    def digest(self) -> str:
        """SHA-256 over what is learned from; names, places and order of files do not matter.

        Slides count by their fingerprints, labels by every byte.
        """
        said = [
            [fingerprint(e.slide), _content(e.labels), e.patient, e.split, e.mpp, dict(e.columns)]
            + [fingerprint(path) for path in e.more]
            for e in self.slides
        ]
        rules: list[Any] = [dict(self.rules.mapping), self.rules.ignore, self.rules.within]
        rules += [True] * self.rules.allow_empty
        rules += [self.rules.priority] * bool(self.rules.priority)
        text = json.dumps([self.classes, rules, sorted(said, key=str)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _check_rules(self) -> None:
        rules = self.rules
        try:
            check_label_rules(
                self.classes,
                mapping=rules.mapping,
                ignore=rules.ignore,
                within=rules.within,
                priority=rules.priority,
            )
        except LabelError as error:
            raise TrainingError(f"{self.path}: labels: {error}") from error
        if self.volumes and (rules.within or rules.priority or rules.allow_empty):
            raise TrainingError(
                f"{self.path}: labels: within, priority and allow_empty are for slides; label "
                "volumes take mapping and ignore"
            )

    def _refuse_leakage(self) -> None:
        _refuse_two_splits(self.path, "patient", [(e.patient, e) for e in self.slides])
        prints = [(str(fingerprint(e.slide)), e) for e in self.slides]
        _refuse_two_splits(self.path, "slide", prints)
        _refuse_two_patients(self.path, prints)


def read_dataset(
    path: str | Path, *, classes: Sequence[str] = (), labels: Mapping[str, Any] | None = None
) -> Dataset:
    """Read a data set file.

    Parameters
    ----------
    path
        `.toml` or `.csv`; relative paths in it count from its folder.
    classes
        For a CSV, which cannot say: the classes, background first.
    labels
        For a CSV: what a TOML file says in `[labels]`.

    Raises
    ------
    TrainingError
        If it cannot be read, something is missing or misspelled, a file it names is not there, a
        patient or a slide is in two splits, or a slide is of two patients.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}; check the path") from error
    if path.suffix.lower() == ".csv":
        if not classes:
            raise TrainingError(
                f"{path}: a CSV cannot say which classes there are; name the config.toml it is of "
                "instead, or name them: --classes 'background, Tumor'"
            )
        table = _rows(path, text)
        volumes = bool(table) and "scan" in table[0]
        entries = tuple(_entries(path, table, volumes=volumes))
        return Dataset(path, tuple(classes), entries, _rules(path, labels), volumes)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path}: is no TOML: {error}; correct it") from error
    _refuse_unknown(path, content, {"classes", "labels", "slides", "scans"})
    if labels is not None and "labels" in content:
        raise TrainingError(f"{path}: has labels, and so has the configuration; needed them once")
    if {"slides", "scans"} <= content.keys():
        raise TrainingError(f"{path}: has slides and scans; a model learns from one kind of them")
    key = "scans" if "scans" in content else "slides"
    rows = content.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TrainingError(f"{path}: {key}: needed a table [[{key}]] for each, found {rows!r}")
    return Dataset(
        path,
        _names(path, content, "classes", classes),
        tuple(_entries(path, rows, volumes=key == "scans")),
        _rules(path, content.get("labels", labels)),
        key == "scans",
    )


def _rules(path: Path, content: object) -> LabelRules:
    rules = {} if content is None else content
    if not isinstance(rules, dict) or not isinstance(rules.get("mapping", {}), dict):
        raise TrainingError(f"{path}: labels: needed a table with a table mapping, found {rules!r}")
    _refuse_unknown(path, rules, {item.name for item in fields(LabelRules)}, "labels.")
    allow_empty = rules.get("allow_empty", False)
    if not isinstance(allow_empty, bool):
        raise TrainingError(
            f"{path}: labels.allow_empty: needed true or false, found {allow_empty!r}"
        )
    mapping = {str(name): str(meant) for name, meant in rules.get("mapping", {}).items()}
    ignore, within, priority = (
        _names(path, rules, key) for key in ("ignore", "within", "priority")
    )
    return LabelRules(mapping, ignore, within, priority, allow_empty)


def _names(
    path: Path, content: Mapping[str, Any], key: str, default: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return a list of names, and refuse a single one, whose letters would be taken for names."""
    found = content.get(key, list(default))
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise TrainingError(f"{path}: {key}: needed a list of names, found {found!r}")
    return tuple(found)


def _rows(path: Path, text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV by column, without spaces around the cells."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    (_, head), *rows = [(number, line) for number, line in lines if any(line)] or [(1, [])]
    for number, row in rows:
        if len(row) != len(head):
            raise TrainingError(
                f"{path}: line {number} has {len(row)} cells; needed {len(head)}, as many as "
                "columns; quote cells that hold a comma"
            )
    return [dict(zip(head, row, strict=True)) for _, row in rows]


def _entries(
    path: Path, rows: Sequence[Mapping[str, Any]], *, volumes: bool
) -> Iterator[SlideEntry]:
    what, other = ("scan", "slide") if volumes else ("slide", "scan")
    for number, row in enumerate(rows, start=1):
        where = f"{path}: {what} {number}"
        missing = [key for key in (what, "labels", "split") if row.get(key) in (None, "", [])]
        if missing:
            raise TrainingError(
                f"{where}: {', '.join(missing)} missing; needed {what}, labels and split, found "
                f"{', '.join(map(str, row)) or 'nothing'}"
            )
        if strange := [key for key in (other, *["mpp"] * volumes) if row.get(key)]:
            raise TrainingError(f"{where}: {strange[0]} is not for a {what}; remove it")
        if row["split"] not in SPLITS:
            raise TrainingError(
                f"{where}: split {row['split']!r}; needed one of {', '.join(SPLITS)}"
            )
        slide, *more = _files(path.parent, row[what], many=volumes)
        stem = stem_of(slide.name) if volumes else slide.stem
        yield SlideEntry(
            slide,
            path.parent / str(row["labels"]),
            stem if row.get("patient") in (None, "") else str(row["patient"]),
            row["split"],
            _mpp(row.get("mpp"), where),
            {key: str(value) for key, value in row.items() if key not in KEYS},
            tuple(more),
        )


def _files(folder: Path, value: object, *, many: bool) -> list[Path]:
    """Return the files of a slide or scan; in a cell those of channels have a `;` between."""
    names = value if isinstance(value, list) else [value]
    if many and isinstance(value, str):
        names = [part.strip() for part in value.split(";")]
    return [folder / str(name) for name in names]


def _mpp(value: object, where: str) -> Mpp:
    if value in (None, ""):
        return None
    parts: Any = value.split(",") if isinstance(value, str) else value
    try:
        numbers = [float(part) for part in (parts if isinstance(parts, list) else [parts])]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < n < math.inf for n in numbers):
        raise TrainingError(f"{where}: mpp {value!r}; needed µm per pixel, as in 0.25, or x and y")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _content(path: Path) -> str | None:
    """Return a hash of every byte: a vertex moved within a large file changes no fingerprint."""
    if not path.is_file():
        return fingerprint(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_unknown(
    path: Path, content: Mapping[str, Any], known: set[str], where: str = ""
) -> None:
    unknown = sorted(content.keys() - known)
    if unknown:
        raise TrainingError(
            f"{path}: unknown {where}{unknown[0]}; needed some of {', '.join(sorted(known))}"
        )


def _refuse_two_patients(path: Path, prints: Sequence[tuple[str, SlideEntry]]) -> None:
    first: dict[str, SlideEntry] = {}
    for key, entry in prints:
        other = first.setdefault(key, entry)
        if other.patient != entry.patient:
            raise TrainingError(
                f"{path}: slide {other.name} and {entry.name}, the same pixels, are of patients "
                f"{other.patient} and {entry.patient}; needed one patient, which a fold leaves out"
            )


def _refuse_two_splits(path: Path, what: str, named: Sequence[tuple[str, SlideEntry]]) -> None:
    first: dict[str, SlideEntry] = {}
    for key, entry in named:
        other = first.setdefault(key, entry)
        if other.split != entry.split:
            shown = key if what == "patient" else f"{other.name} and {entry.name}, the same pixels,"
            raise TrainingError(
                f"{path}: {what} {shown} is in {other.split} ({other.name}) and in {entry.split} "
                f"({entry.name}): it would be tested on what it learned; put both into one split"
            )
