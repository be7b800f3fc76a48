"""What a model made of the slides of a data set, compared with their labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.labels import IGNORE, class_values, open_labels
from wsiseg.annotations.read_drawing import read_areas, read_points
from wsiseg.errors import AnnotationError, SpacingUnavailableError, UsageError
from wsiseg.evaluate import Case, Evaluation, EvaluationOptions, evaluate, read_heatmap, slide_case
from wsiseg.evaluate.case import Objects, Pair, PointSet, ReadProbabilities
from wsiseg.evaluate.volumes import ScanPair, evaluate_scans, find_pairs
from wsiseg.source import Pyramid, View
from wsiseg.source.naming import stem_of
from wsiseg.stitch import HeatmapStore
from wsiseg.train.dataset import Dataset, SlideEntry, Split
from wsiseg.train.known import KnownArea, known_area

__all__ = ["Compared", "evaluate_dataset", "find_prediction"]

Compared = Literal["masks", "objects", "points"]
"""`masks`: the class of each pixel. `objects`: outlines, one by one, such as nuclei or glands.
`points`: marks, such as cells."""

DRAWINGS = ("annotations.geojson", "annotations.geojson.gz")
PREDICTIONS = ("mask.zarr", *DRAWINGS)
"""In a folder of results, the first of these that is there."""

DRAWING_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".xml")
SUFFIXES = (".geojson", ".geojson.gz", ".png", ".tif", ".tiff", ".zarr", ".ome.zarr", ".xml")
"""Beside each other, by the stem of the slide."""

RATER = "rater"
"""How columns begin that name labels of the same slide by other people."""


def evaluate_dataset(
    dataset: Dataset,
    predictions: str | Path,
    *,
    splits: Sequence[Split] = ("test",),
    spacing_um: float = 1.0,
    compared: Sequence[str] = ("masks",),
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Compare predictions of slides with the labels of a data set.

    Of scans the labels are compared, in mm; what is for slides alone counts for nothing.

    Parameters
    ----------
    dataset
        Slides, labels, patients and other columns. Columns whose names begin with `rater` hold
        labels of other people, paths beside the data set; masks are compared with these, too.
    predictions
        Folder that `segment` wrote, or any folder with a mask or annotations per slide, named
        after it.
    splits
        Which slides.
    spacing_um
        µm per pixel at which masks are compared.
    compared
        Masks, objects, points, or several of these. Objects and points need annotations on both
        sides; where there are no points, those in the middle of the areas count.
    options
        Measures, tolerances, strata.

    Raises
    ------
    UsageError
        If there is no such slide, or one has no prediction.
    SourceError, AnnotationError
        If a slide, its labels or its prediction cannot be read, or do not belong together.
    """
    if strange := sorted(set(compared) - set(get_args(Compared))):
        raise UsageError(
            f"cannot compare {strange[0]!r}; needed some of {', '.join(get_args(Compared))}"
        )
    entries = dataset.of(*splits)
    if not entries:
        kind = "scan" if dataset.volumes else "slide"
        raise UsageError(f"{dataset.path}: no {kind} of split {' or '.join(splits)}; name another")
    if dataset.volumes:
        return _evaluate_scans(dataset, entries, Path(predictions), options)
    cases = (_case(dataset, entry, Path(predictions), spacing_um, compared) for entry in entries)
    return evaluate(cases, dataset.classes, options=options)


def _evaluate_scans(
    dataset: Dataset,
    entries: Sequence[SlideEntry],
    predictions: Path,
    options: EvaluationOptions | None,
) -> Evaluation:
    """Compare label volumes; those of the data set have to hold the values of the classes."""
    plain = {str(value): name for value, name in enumerate(dataset.classes)}
    if dataset.rules.ignore or dict(dataset.rules.mapping).items() - plain.items():
        raise UsageError(
            f"{dataset.path}: scans whose labels are mapped or ignored cannot be compared: needed "
            "value k for class k; rewrite the label volumes"
        )
    pairs = [_scan_pair(entry, predictions) for entry in entries]
    return evaluate_scans(pairs, classes=dataset.classes, options=options)


def _scan_pair(entry: SlideEntry, predictions: Path) -> ScanPair:
    stem = stem_of(entry.slide.name)
    prediction = predictions / stem / "labels.nii.gz"
    if not prediction.is_file():
        raise UsageError(
            f"{predictions}: no labels of {entry.name}: needed {prediction}; segment it first"
        )
    (found,) = find_pairs(entry.labels, prediction)
    return replace(found, name=stem)


def find_prediction(folder: Path, entry: SlideEntry, *, drawn: bool = False) -> Path:
    """Return the mask or annotations of a slide in a folder of predictions; annotations if `drawn`.

    Raises
    ------
    UsageError
        If there is none.
    """
    names, suffixes = (DRAWINGS, DRAWING_SUFFIXES) if drawn else (PREDICTIONS, SUFFIXES)
    stem = stem_of(entry.slide.name)
    stems = dict.fromkeys([stem, entry.slide.stem])
    candidates = [folder / s / name for s in stems for name in names]
    candidates += [folder / f"{s}{suffix}" for s in stems for suffix in suffixes]
    for path in candidates:
        if path.exists():
            return path
    others = "" if drawn else ", .png or .tiff"
    raise UsageError(
        f"{folder}: no prediction of {entry.name}: needed {candidates[0]} or {folder / stem}"
        f".geojson{others}; segment it first"
    )


def _case(
    dataset: Dataset,
    entry: SlideEntry,
    predictions: Path,
    spacing_um: float,
    compared: Sequence[str],
) -> Case:
    slide = entry.open()
    columns = {"patient": entry.patient, **entry.columns}
    case = Case(name=slide.name, columns=columns, thumbnail=slide.thumbnail)
    if "masks" in compared:
        case = _mask_case(dataset, entry, slide, find_prediction(predictions, entry), spacing_um)
        case = replace(case, columns=columns)
    if "objects" in compared or "points" in compared:
        drawn = find_prediction(predictions, entry, drawn=True)
        # A program that finds nothing writes an empty file; a person's is mostly a mistake.
        sides = ((drawn, True), (entry.labels, dataset.rules.allow_empty))
        known = known_area(entry.labels, slide, dataset)
        if "objects" in compared:
            both = (_objects(path, slide, dataset, known, allow_empty=e) for path, e in sides)
            case = replace(case, objects=Pair(*both))
        if "points" in compared:
            marks = (_points(path, slide, dataset, known, allow_empty=e) for path, e in sides)
            case = replace(case, points=Pair(*marks))
    return case


def _mask_case(
    dataset: Dataset, entry: SlideEntry, slide: Pyramid, prediction: Path, spacing_um: float
) -> Case:
    try:
        view = slide.at(spacing_um)
    except SpacingUnavailableError as error:
        raise UsageError(
            f"{slide.name}: cannot be compared at {spacing_um:g} µm: its pixels have "
            f"{max(slide.spacing.um):g} µm; give that or more as --spacing"
        ) from error
    predicted = open_labels(
        prediction,
        slide,
        dataset.classes,
        mapping=dataset.rules.mapping,
        priority=dataset.rules.priority,
        allow_empty=True,
    )
    people = [
        replace(entry, labels=dataset.path.parent / labels)
        for column, labels in sorted(entry.columns.items())
        if column.startswith(RATER)
    ]
    if people:
        people = [entry, *people]
    return slide_case(
        slide,
        view,
        prediction=predicted.at(view).read,
        reference=dataset.open_labels(entry, slide).at(view).read,
        probabilities=_probabilities(prediction.with_name("heatmap.zarr"), view, dataset.classes),
        raters=[dataset.open_labels(one, slide).at(view).read for one in people],
    )


def _objects(
    path: Path, slide: Pyramid, dataset: Dataset, known: KnownArea, *, allow_empty: bool
) -> Objects:
    """Return the areas of a file that have a class and lie where it is known, level-0 pixels."""
    areas = read_areas(path, slide, allow_empty=allow_empty)
    index = _class_index(path, areas.names, dataset)
    kept = index > 0
    kept[kept] = known.holds(_middles(areas.geometries[kept]))
    return Objects(areas.geometries[kept], index[kept])


def _points(
    path: Path, slide: Pyramid, dataset: Dataset, known: KnownArea, *, allow_empty: bool
) -> PointSet:
    """Return the points of a file that have a class; the middle of areas where it has none."""
    try:
        points = read_points(path, slide, allow_empty=allow_empty)
        places, names = points.yx, points.names
    except AnnotationError:
        areas = read_areas(path, slide)
        places, names = _middles(areas.geometries), areas.names
    index = _class_index(path, names, dataset)
    kept = (index > 0) & known.holds(places)
    return PointSet(places[kept] * np.array(slide.spacing.um), index[kept])


def _middles(areas: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return a point inside each area, (n, 2) as (y, x)."""
    middle = shapely.point_on_surface(areas)
    return np.stack([shapely.get_y(middle), shapely.get_x(middle)], axis=1)


def _class_index(path: Path, names: Sequence[str], dataset: Dataset) -> NDArray[np.int64]:
    """Return the class value of each name, 0 for what is none or not known."""
    rules = dataset.rules
    values = class_values(
        path,
        names,
        dataset.classes,
        mapping=rules.mapping,
        ignore=rules.ignore,
        within=rules.within,
    )
    values[values == IGNORE] = 0
    return values


def _probabilities(path: Path, view: View, classes: Sequence[str]) -> ReadProbabilities | None:
    """Return what reads the heatmap beside a mask, where there is one of all classes."""
    if not path.is_dir():
        return None
    store = HeatmapStore.open(path)
    known = all(name in store.channels for name in classes[1:])
    return read_heatmap(store, view, classes) if known else None
