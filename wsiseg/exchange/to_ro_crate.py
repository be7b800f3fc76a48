"""RO-Crate: what results are, what made them and from what, in words that archives read.

One file, `ro-crate-metadata.json`, describes the folder it lies in (RO-Crate 1.1, profile Process
Run Crate 0.5): each file with its type, size and hash, and for each slide the action that made its
files. The slide is named and told by its fingerprint; its pixels and its path are not in it, and
nobody's name is.
"""

import hashlib
import mimetypes
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from wsiseg import __version__
from wsiseg.engine.marker import MARKER, Marker
from wsiseg.errors import RunError, unwritable
from wsiseg.exchange._writing import refuse_existing, whole_file, whole_folder
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["CRATE", "describe_in_place", "is_own_crate", "to_ro_crate"]

CRATE = "ro-crate-metadata.json"
CONTEXT = (
    "https://w3id.org/ro/crate/1.1/context",
    "https://w3id.org/ro/terms/workflow-run/context",
)
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE, PROFILE_VERSION = "https://w3id.org/ro/wfrun/process/0.5", "0.5"
NGFF = "https://ngff.openmicroscopy.org/0.4/"
SPDX = "https://spdx.org/licenses/"
SOFTWARE = "#wsiseg"
PIECE = 1 << 22

FORMATS = {
    ".geojson": "application/geo+json",
    ".geojson.gz": "application/gzip",
    ".json": "application/json",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".wsiseg": "text/plain",
}
MEANINGS = {
    "annotations": "What the model found, as objects of QuPath",
    "annotations-": "Part of what the model found, as objects of QuPath",
    "tissue": "Outlines of the tissue",
    "heatmap": "Probability of each class: 0 is no data, else (value - 1) / 254",
    "stage-": "Heatmap of an earlier stage",
    "uncertainty-": "How sure the model is",
    "mask": "Class of each pixel",
    "overview": "Picture of the slide with tissue and classes",
    "run": "Slide, model, options, versions, times",
    "corrupt": "Blocks of the slide that could not be decoded, and what replaced them",
    "embeddings": "A vector per tile",
    "summary": "A row per slide",
    "failures": "Slides that failed, and why",
    "report": "All slides with their pictures, to read and print",
    ".wsiseg.json": "What the result was made from",
    ".wsiseg": "Which files wsiseg wrote, and of which slide",
}

Entity = dict[str, Any]


def to_ro_crate(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Copy a result to `<out>/<name>/` and describe it there: a crate that can be given away.

    Raises
    ------
    RunError
        If the folder is there and not to be overwritten, or the result has no `run.json`.
    DiskFullError
        If there is no room left.
    """
    import shutil

    target = out / result.name
    with whole_folder(target, overwrite=request.overwrite) as part:
        shutil.copytree(result.folder, part, dirs_exist_ok=True)
        (part / CRATE).unlink(missing_ok=True)
        _write(part / CRATE, _Crate(part, result.name, request.license).document())
    return ExportReport((target / CRATE,))


def describe_in_place(
    folder: Path | str, *, license: str = "", overwrite: bool = False
) -> ExportReport:
    """Write `ro-crate-metadata.json` into a result folder, or the folder of a whole run.

    Parameters
    ----------
    folder
        Of one slide, or the `--out` of a run, whose results are all described.
    license
        Of the data: a URL, or an SPDX name such as `CC-BY-4.0`.
    overwrite
        Replace such a file that is there.

    Raises
    ------
    RunError
        If no result is there, or the file is and is not to be replaced, or cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; name a result folder, or the --out of a run")
    path = folder / CRATE
    refuse_existing(path, overwrite=overwrite)
    document = _Crate(folder, folder.resolve().name, license).document()
    with whole_file(path, overwrite=overwrite) as part:
        _write(part, document)
    return ExportReport((path,))


def is_own_crate(path: Path) -> bool:
    """Return whether a `ro-crate-metadata.json` is one that wsiseg wrote."""
    try:
        graph = orjson.loads(path.read_bytes())["@graph"]
        return any(entity.get("@id") == SOFTWARE for entity in graph)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write(path: Path, document: Entity) -> None:
    try:
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise unwritable(error, path) from error


@dataclass
class _Crate:
    """The description of a folder as it grows."""

    folder: Path
    name: str
    license: str

    def __post_init__(self) -> None:
        self._graph: dict[str, Entity] = {}

    def document(self) -> Entity:
        """Return the whole document."""
        results = list(_results(self.folder))
        if not results:
            raise RunError(
                f"{self.folder}: no result with a run.json in it; name the folder of a slide, or "
                "the --out of a run"
            )
        actions = [self._result(folder) for folder in results]
        parts = [self._described(path) for path in _entries(self.folder)]
        ended = max(action["endTime"] for action in actions)
        slides = f"{len(actions)} slide{'s' * (len(actions) > 1)}"
        root: Entity = {
            "@id": "./",
            "@type": "Dataset",
            "conformsTo": {"@id": PROFILE},
            "name": f"wsiseg results: {self.name}",
            "description": f"Results of wsiseg {__version__} for {slides}",
            "datePublished": ended,
            "license": self._license(self.license, "the data"),
            "hasPart": parts,
            "mentions": [{"@id": action["@id"]} for action in actions],
        }
        head: Entity = {
            "@id": CRATE,
            "@type": "CreativeWork",
            "conformsTo": {"@id": SPECIFICATION},
            "about": {"@id": "./"},
        }
        profile: Entity = {
            "@id": PROFILE,
            "@type": "CreativeWork",
            "name": "Process Run Crate",
            "version": PROFILE_VERSION,
        }
        return {"@context": list(CONTEXT), "@graph": [head, root, profile, *self._graph.values()]}

    def _result(self, folder: Path) -> Entity:
        """Describe a slide's result: the action that made it, its files, the slide, the model."""
        record = _record(folder)
        marker = Marker.read(folder)
        written = dict(marker.written) | {MARKER: ""} if marker and marker.written else None
        made: list[Entity] = []
        given: list[Entity] = []
        for path in _entries(folder):
            reference = self._described(path)
            (made if written is None or path.name in written else given).append(reference)
        slide, model = record.get("slide") or {}, record.get("model") or {}
        name, command = str(slide.get("name", folder.name)), str(record.get("command", "segment"))
        ended, seconds = _ended(folder, record)
        action: Entity = {
            "@id": f"#run-{_escaped(self._place(folder) or 'result')}",
            "@type": "CreateAction",
            "name": f"wsiseg {command} of {name}",
            "description": f"wsiseg {command}: {', '.join(_options(record)) or 'default options'}",
            "instrument": [self._software(str(record.get("wsiseg", __version__)))],
            "object": [self._slide(slide, name)],
            "result": made,
            "startTime": _stamp(ended - timedelta(seconds=seconds)),
            "endTime": _stamp(ended),
            "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        }
        if model:
            action["instrument"].append(self._model(model))
        self._add(action)
        if folder != self.folder:
            self._add(
                {
                    "@id": self._id(folder),
                    "@type": "Dataset",
                    "name": f"Result of {name}",
                    "hasPart": made + given,
                }
            )
        return action

    def _described(self, path: Path) -> Entity:
        """Add the entity of a file, a store or a folder, and return a reference to it."""
        identifier = self._id(path)
        if identifier in self._graph:
            return {"@id": identifier}
        stem = next((text for name, text in MEANINGS.items() if _is_called(path, name)), None)
        entity: Entity = {"@id": identifier, "name": path.name}
        if stem:
            entity["description"] = stem
        if path.is_dir() and path.suffix != ".zarr":
            inner = [self._described(child) for child in _entries(path)]
            entity |= {"@type": "Dataset", "hasPart": inner}
        elif path.is_dir():
            digest, size, count = _digest_of_folder(path)
            entity |= {
                "@type": "Dataset",
                "encodingFormat": ["application/vnd+zarr", {"@id": NGFF}],
                "contentSize": str(size),
                "sha256": digest,
                "description": f"{stem or 'Array'}; {count} files, sha256 over names and hashes",
            }
            self._add({"@id": NGFF, "@type": "WebPage", "name": "OME-Zarr 0.4"})
        else:
            digest, size = _digest(path)
            entity |= {
                "@type": "File",
                "encodingFormat": _format(path),
                "contentSize": str(size),
                "sha256": digest,
            }
        return self._add(entity)

    def _software(self, version: str) -> Entity:
        """Return a reference to wsiseg."""
        entity: Entity = {
            "@id": SOFTWARE,
            "@type": "SoftwareApplication",
            "name": "wsiseg",
            "version": version,
            "license": self._license("Apache-2.0", "wsiseg"),
        }
        if self._graph.get(SOFTWARE, entity)["version"] != version:  # results of several versions
            entity["@id"] = f"{SOFTWARE}-{_escaped(version)}"
        return self._add(entity)

    def _model(self, model: Mapping[str, Any]) -> Entity:
        """Return a reference to a model, told by its digest."""
        digest = str(model.get("digest", ""))
        name, version = str(model.get("name", "model")), str(model.get("version", ""))
        identifier = f"#model-{_escaped(digest[:16] or name)}"
        entity: Entity = {
            "@id": identifier,
            "@type": "SoftwareApplication",
            "name": name,
            "version": version,
            "description": f"Trained networks. Intended use: {model.get('intended_use') or '?'}",
            "license": self._license(str(model.get("license") or ""), f"the model {name}"),
            "identifier": self._property(
                f"{identifier}-digest", "sha256 of card and weights", digest
            ),
        }
        return self._add(entity)

    def _slide(self, slide: Mapping[str, Any], name: str) -> Entity:
        """Return a reference to a slide, which is not in the crate."""
        fingerprint = str(slide.get("sha256_sampled") or "")
        identifier = f"#slide-{_escaped(fingerprint[:16] or name)}"
        x, y = (*(slide.get("mpp") or ()), None, None)[:2]
        facts: Entity = {"mpp_x": x, "mpp_y": y, "vendor": slide.get("vendor")}
        entity: Entity = {
            "@id": identifier,
            "@type": "ImageObject",
            "name": name,
            "description": "Whole-slide image; not part of this crate",
            "additionalProperty": [
                self._property(f"{identifier}-{key}", key, value)
                for key, value in facts.items()
                if value is not None
            ],
        }
        if fingerprint:
            entity["identifier"] = self._property(
                f"{identifier}-fingerprint", "sha256 of size, ends and samples", fingerprint
            )
        return self._add(entity)

    def _license(self, text: str, what: str) -> Entity:
        """Return a reference to a licence: a URL, an SPDX name, other words, or none."""
        if re.match(r"https?://", text):
            return self._add({"@id": text, "@type": "CreativeWork", "name": text})
        if re.fullmatch(r"[A-Za-z0-9.+-]{2,40}", text):
            return self._add({"@id": f"{SPDX}{text}", "@type": "CreativeWork", "name": text})
        identifier = f"#licence-of-{_escaped(what)}"
        entity: Entity = {"@id": identifier, "@type": "CreativeWork", "name": text or "not stated"}
        if not text:
            entity["description"] = f"The licence of {what} is not stated; ask who gave it to you"
        return self._add(entity)

    def _property(self, identifier: str, name: str, value: object) -> Entity:
        entity: Entity = {"@id": identifier, "@type": "PropertyValue", "name": name}
        return self._add(
            entity | {"value": value if isinstance(value, int | float) else str(value)}
        )

    def _add(self, entity: Entity) -> Entity:
        self._graph.setdefault(entity["@id"], entity)
        return {"@id": entity["@id"]}

    def _place(self, path: Path) -> str:
        place = path.relative_to(self.folder).as_posix()
        return "" if place == "." else place

    def _id(self, path: Path) -> str:
        return _escaped(self._place(path)) + "/" * path.is_dir()


def _results(folder: Path) -> Iterator[Path]:
    """Yield the result folders in a folder, itself included, but for work under way."""
    if (folder / "run.json").is_file():
        yield folder
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and child.suffix != ".zarr":
            yield from _results(child)


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, but for the description itself and for work under way."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name != CRATE
        and not (path.name.startswith(".") and (path.is_dir() or ".part." in path.name))
    ]


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / "run.json"
    try:
        record = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}; run the slide again") from error
    if not isinstance(record, dict) or not all(
        isinstance(record.get(key, {}), dict) for key in ("slide", "model", "summary", "options")
    ):
        raise RunError(f"{path}: is not what wsiseg writes; run the slide again")
    return record


def _ended(folder: Path, record: Mapping[str, Any]) -> tuple[datetime, float]:
    """Return when a run ended and how many seconds it took, as far as is known."""
    seconds = record.get("summary", {}).get("seconds")
    try:
        ended = datetime.fromisoformat(str(record.get("ended")))
    except ValueError:  # results of earlier versions: when the file was written
        ended = datetime.fromtimestamp((folder / "run.json").stat().st_mtime, UTC)
    if ended.tzinfo is None:
        ended = ended.replace(tzinfo=UTC)
    known = isinstance(seconds, int | float) and 0 <= seconds < 1e8
    return ended, float(seconds) if known else 0.0


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _options(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options of a run as `group.name=value`, but for the machine's."""
    for group, options in record.get("options", {}).items():
        for name, value in options.items() if isinstance(options, dict) else ():
            if name not in {"threads", "memory_bytes", "device"} and value not in (None, [], ()):
                yield f"{group}.{name}={value}"


def _is_called(path: Path, name: str) -> bool:
    """Tell whether a file has this name, or begins with it where the name ends in a dash."""
    return path.name.startswith(name if name.endswith("-") else f"{name}.") or path.name == name


def _format(path: Path) -> str:
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending):
            return kind
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _digest(path: Path) -> tuple[str, int]:
    """Return SHA-256 and size of a file, read a piece at a time."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; copy it anew") from error
    return digest.hexdigest(), size


def _digest_of_folder(folder: Path) -> tuple[str, int, int]:
    """Return SHA-256 over `<hash>  <name>` lines as `sha256sum` prints them, bytes, and files."""
    total, count, lines = 0, 0, hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=os.fsencode):
        if path.is_file():
            digest, size = _digest(path)
            lines.update(f"{digest}  {path.relative_to(folder).as_posix()}\n".encode())
            total, count = total + size, count + 1
    return lines.hexdigest(), total, count


def _escaped(text: str) -> str:
    return quote(os.fsencode(text), safe="/._-~()")
