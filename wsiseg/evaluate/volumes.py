"""Segmented scans against labels: pairs of NIfTI and other volumes, compared voxel by voxel."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelError, UsageError
from wsiseg.evaluate.calibration import Probabilities, with_background
from wsiseg.evaluate.case import Case, EvaluationOptions, Masks, ReadLabels
from wsiseg.evaluate.evaluation import Evaluation, Evaluator
from wsiseg.evaluate.values import LabelArray
from wsiseg.geometry import Affine, Box
from wsiseg.source import Volume, is_volume, open_volume
from wsiseg.source.naming import stem_of
from wsiseg.volume.arrays import VolumeArray, slabs
from wsiseg.volume.planes import widest_slices

__all__ = ["TOLERANCE_MM", "ScanPair", "evaluate_scans", "find_pairs", "scan_options"]

TOLERANCE_MM = 1.0

SAME_MM = 0.01
"""Prediction and reference lie on one grid if their affines agree so far."""

UPRIGHT = {"S": "LPS", "A": "LIP", "R": "PIL"}
"""Axes of what is compared, by the direction across slices: axial, coronal, sagittal ones are then
upright in pictures, as radiologists show them."""

THICK = 1.5
"""Slices lie across the axis with the largest spacing if it is so many times the smallest."""

LABELS = "labels.nii.gz"
PROBABILITIES = ("probabilities.nii.gz", "probabilities.nii")


@dataclass(frozen=True, slots=True)
class ScanPair:
    """Files of one scan."""

    name: str
    reference: Path
    prediction: Path
    raters: tuple[Path, ...] = ()
    """References of other people."""

    probabilities: Path | None = None
    """NIfTI with a volume per class, with or without the background."""


def scan_options(*, tolerance_mm: float = TOLERANCE_MM, **more: Any) -> EvaluationOptions:  # noqa: ANN401
    """Return options that suit scans: lesions compared, tolerance in mm; others by name."""
    return EvaluationOptions(tolerance_um=1000 * tolerance_mm, **{"lesions": True, **more})


def find_pairs(
    references: Path | str, predictions: Path | str, *, raters: Sequence[Path | str] = ()
) -> list[ScanPair]:
    """Return pairs of files with one name.

    Parameters
    ----------
    references
        Folder of label volumes, or one file.
    predictions
        What `wsiseg segment` wrote (`<name>/labels.nii.gz`), a folder of volumes of the same names,
        or one file. Probabilities are `probabilities.nii.gz` beside the labels of a result, or
        `<name>_probabilities.nii.gz` beside `<name>.nii.gz`.
    raters
        Folders with labels of the same scans by other people, under the same names.

    Raises
    ------
    UsageError
        If there is no label volume, or one has no prediction.
    """
    references, predictions = Path(references), Path(predictions)
    files = [references]
    if references.is_dir():
        files = sorted(p for p in references.iterdir() if p.is_file() and is_volume(p))
    if not files or not files[0].exists():
        raise UsageError(f"{references}: no label volume there; needed NIfTI, NRRD or MetaImage")
    pairs = []
    for file in files:
        stem = stem_of(file.name)
        if stem.endswith("_probabilities"):
            continue
        prediction = predictions
        if predictions.is_dir():
            prediction = _named(predictions, stem) or _missing(predictions, stem)
        people = [_named(Path(one), stem) or _missing(Path(one), stem) for one in raters]
        pairs.append(ScanPair(stem, file, prediction, tuple(people), _beside(prediction, stem)))
    return pairs


def _named(folder: Path, stem: str) -> Path | None:
    """Return the labels of a scan in a folder."""
    result = folder / stem / LABELS
    if result.is_file():
        return result
    same = (p for p in sorted(folder.glob("*")) if stem_of(p.name) == stem)
    return next((p for p in same if p.is_file() and is_volume(p)), None)


def _missing(folder: Path, stem: str) -> Path:
    raise UsageError(
        f"{folder}: no labels of {stem}: needed {folder / stem / LABELS} or {stem}.nii.gz; "
        "segment it first"
    )


def _beside(prediction: Path, stem: str) -> Path | None:
    names = PROBABILITIES if prediction.name == LABELS else (f"{stem}_probabilities.nii.gz",)
    return next((p for p in map(prediction.with_name, names) if p.is_file()), None)


def evaluate_scans(
    pairs: Sequence[ScanPair],
    *,
    classes: Sequence[str] = (),
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Compare segmentations of scans with their labels, one scan after the other.

    Volumes are read in blocks. What grows with the scan are outlines, and, for lesions, the box
    around a class; probabilities are held, 4 bytes per voxel and class.

    Parameters
    ----------
    pairs
        Such as `find_pairs` gives.
    classes
        Names of the values 0, 1, ..., the background first. None: the values that are there,
        each called after itself.
    options
        Such as `scan_options()`, the default.

    Raises
    ------
    UsageError
        If there is no pair, or two volumes do not lie on the same voxels.
    LabelError
        If a volume holds no labels, or values without a class.
    SourceError
        If a file cannot be read.
    """
    if not pairs:
        raise UsageError("no scan to evaluate; give at least one with a reference")
    values = tuple(range(len(classes))) if classes else (0, *_values(pairs))
    names = tuple(classes) or ("background", *(f"label {value}" for value in values[1:]))
    if len(names) == 1:  # nothing anywhere: one class that is empty on both sides
        names, values = (*names, "label 1"), (0, 1)
    evaluator = Evaluator(names, options=options or scan_options())
    for pair in pairs:
        with ExitStack() as stack:
            evaluator.add(_case(pair, values, stack))
    return replace(evaluator.finish(), noun="scan")


def _values(pairs: Sequence[ScanPair]) -> list[int]:
    """Return all values above 0 that any of the label volumes holds."""
    found: set[int] = set()
    for pair in pairs:
        for path in (pair.reference, pair.prediction, *pair.raters):
            with open_volume(path) as volume:
                for _, part in slabs(VolumeArray(volume)):
                    found.update(int(value) for value in np.unique(_integers(part, path)))
    return sorted(found - {0})


def _integers(part: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return labels as integers; programs often write them as floating point."""
    if part.dtype.kind in "iub":
        return part
    whole = np.rint(part)
    if not np.array_equal(whole, part):
        raise LabelError(f"{path}: needed labels, whole numbers, found {part[whole != part][0]}")
    integers: NDArray[np.int64] = whole.astype(np.int64)
    return integers


def _case(pair: ScanPair, values: Sequence[int], stack: ExitStack) -> Case:
    stored = stack.enter_context(open_volume(pair.reference))
    upright = _upright(stored.affine)
    reference = stored.oriented(upright)

    def reader(path: Path) -> ReadLabels:
        volume = reference
        if path != pair.reference:
            volume = stack.enter_context(open_volume(path)).oriented(upright)
            _check_grid(volume, reference, path, pair.reference)
        return _label_reader(volume, path, values)

    raters = [reader(path) for path in pair.raters]
    masks = Masks(
        shape=reference.shape,
        spacing=reference.spacing,
        prediction=reader(pair.prediction),
        reference=reader(pair.reference),
        probabilities=_probabilities(pair, reference, len(values)),
        raters=(reader(pair.reference), *raters) if raters else (),
        plane=widest_slices(VolumeArray(reference))[0],
    )
    return Case(name=pair.name, masks=masks)


def _upright(affine: Affine) -> str:
    """Return the orientation in which the slices of a scan are looked at."""
    spacing = affine.spacing_mm
    if max(spacing) < THICK * min(spacing):
        return UPRIGHT["S"]
    code = affine.codes[spacing.index(max(spacing))]
    return UPRIGHT[{"I": "S", "P": "A", "L": "R"}.get(code, code)]


def _check_grid(volume: Volume, reference: Volume, path: Path, other: Path) -> None:
    if volume.shape == reference.shape and volume.affine.is_close(reference.affine, SAME_MM):
        return
    raise UsageError(
        f"{path}: has {volume.shape} voxels (z, y, x) of {_mm(volume)} mm at {_at(volume)}, the "
        f"reference {other.name} {reference.shape} of {_mm(reference)} mm at {_at(reference)}: "
        "needed the same voxels; resample one of them"
    )


def _mm(volume: Volume) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in volume.affine.spacing_mm)


def _at(volume: Volume) -> tuple[float, ...]:
    return tuple(round(value, 2) for value in volume.affine.origin)


def _label_reader(volume: Volume, path: Path, values: Sequence[int]) -> ReadLabels:
    """Return what reads labels as places of `values`; refuses other values."""
    known = np.asarray(values)

    def read(box: Box) -> LabelArray:
        part = _integers(volume.read(box)[..., 0], path)
        place = np.searchsorted(known, part).clip(0, len(known) - 1)
        if not np.array_equal(known[place], part):
            strange = sorted(set(np.unique(part).tolist()) - set(values))
            raise LabelError(
                f"{path}: holds label {strange[0]}, known are {list(values)}; name all classes "
                "with --classes"
            )
        return place.astype(np.uint8)

    return read


def _probabilities(pair: ScanPair, reference: Volume, classes: int) -> Any:  # noqa: ANN401
    """Return what reads the probabilities of a scan, if there are any."""
    if pair.probabilities is None:
        return None
    import nibabel

    image: Any = nibabel.load(pair.probabilities)
    stored = np.asarray(image.dataobj, np.float32)
    if stored.ndim != 4 or stored.shape[3] not in (classes, classes - 1):
        raise UsageError(
            f"{pair.probabilities}: needed a volume for each of {classes} classes (the first may "
            f"be missing), found {stored.shape}"
        )
    voxels = stored.transpose(2, 1, 0, 3)
    affine = Affine.from_nifti(image.affine)
    turn = affine.turn_to(reference.affine.orientation)
    turned = turn.apply(voxels)
    there = affine.turned(turn, voxels.shape[:3])
    if turned.shape[:3] != reference.shape or not there.is_close(reference.affine, SAME_MM):
        raise UsageError(
            f"{pair.probabilities}: has {turned.shape[:3]} voxels at {there.origin}, the reference "
            f"{reference.shape} at {reference.affine.origin}: needed the same voxels"
        )

    def read(box: Box) -> Probabilities:
        part: Probabilities = turned[box.slices()]
        return part if part.shape[-1] == classes else with_background(part)

    return read
