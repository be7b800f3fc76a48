"""What a model made of the slides of a data set, compared with their labels."""

from collections.abc import Sequence
from pathlib import Path

from wsiseg.annotations.labels import open_labels
from wsiseg.errors import UsageError
from wsiseg.evaluate import Case, Evaluation, EvaluationOptions, evaluate, read_heatmap, slide_case
from wsiseg.evaluate.case import ReadProbabilities
from wsiseg.source import View
from wsiseg.stitch import HeatmapStore
from wsiseg.train.dataset import Dataset, SlideEntry, Split

__all__ = ["evaluate_dataset", "find_prediction"]

PREDICTIONS = ("mask.zarr", "annotations.geojson", "annotations.geojson.gz")
"""In a folder of results, the first of these that is there."""

SUFFIXES = (".geojson", ".geojson.gz", ".png", ".tif", ".tiff", ".zarr", ".ome.zarr", ".xml")
"""Beside each other, by the stem of the slide."""


def evaluate_dataset(
    dataset: Dataset,
    predictions: str | Path,
    *,
    splits: Sequence[Split] = ("test",),
    spacing_um: float = 1.0,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Compare predictions of slides with the labels of a data set.

    Parameters
    ----------
    dataset
        Slides, labels, patients and other columns.
    predictions
        Folder that `segment` wrote, or any folder with a mask or annotations per slide, named
        after it.
    splits
        Which slides.
    spacing_um
        µm per pixel at which they are compared.
    options
        Measures, tolerances, strata.

    Raises
    ------
    UsageError
        If there is no such slide, or one has no prediction.
    SourceError, AnnotationError
        If a slide, its labels or its prediction cannot be read, or do not belong together.
    """
    entries = dataset.of(*splits)
    if not entries:
        raise UsageError(f"{dataset.path}: no slide of split {' or '.join(splits)}; name another")
    found = [find_prediction(Path(predictions), entry) for entry in entries]
    cases = (_case(dataset, e, p, spacing_um) for e, p in zip(entries, found, strict=True))
    return evaluate(cases, dataset.classes, options=options)


def find_prediction(folder: Path, entry: SlideEntry) -> Path:
    """Return the mask or annotations of a slide in a folder of predictions.

    Raises
    ------
    UsageError
        If there is none.
    """
    stem = entry.slide.name.split(".")[0]
    stems = dict.fromkeys([entry.slide.stem, stem])
    candidates = [folder / s / name for s in stems for name in PREDICTIONS]
    candidates += [folder / f"{s}{suffix}" for s in stems for suffix in SUFFIXES]
    for path in candidates:
        if path.exists():
            return path
    raise UsageError(
        f"{folder}: no prediction of {entry.name}: needed {candidates[0]} or {folder / stem}"
        ".geojson, .png or .tiff; segment it first"
    )


def _case(dataset: Dataset, entry: SlideEntry, prediction: Path, spacing_um: float) -> Case:
    slide = entry.open()
    view = slide.at(spacing_um)
    reference = dataset.open_labels(entry, slide)
    predicted = open_labels(prediction, slide, dataset.classes, mapping=dataset.rules.mapping)
    return slide_case(
        slide,
        view,
        prediction=predicted.at(view).read,
        reference=reference.at(view).read,
        probabilities=_probabilities(prediction.with_name("heatmap.zarr"), view, dataset.classes),
        columns={"patient": entry.patient, **entry.columns},
    )


def _probabilities(path: Path, view: View, classes: Sequence[str]) -> ReadProbabilities | None:
    """Return what reads the heatmap beside a mask, where there is one of all classes."""
    if not path.is_dir():
        return None
    store = HeatmapStore.open(path)
    known = all(name in store.channels for name in classes[1:])
    return read_heatmap(store, view, classes) if known else None
