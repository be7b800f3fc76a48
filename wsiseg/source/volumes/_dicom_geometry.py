"""From the places of DICOM images to a grid of voxels, and everything that forbids one.

Everything is reckoned in DICOM's frame, LPS in millimetres, from the positions of the images;
stated spacings and locations decide nothing.

References
----------
DICOM PS3.3 C.7.6.2.1.1: Image Position (Patient) and Image Orientation (Patient).
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import (
    DicomSeriesError,
    DuplicateSlicesError,
    GridError,
    LocalizerError,
    MissingSlicesError,
    MissingSpacingError,
    MixedImagesError,
    MixedOrientationError,
    NoPlaceError,
    NotAVolumeError,
    TiltedSlicesError,
    TimePointsError,
    UnevenSlicesError,
    VariableTiltError,
)
from wsiseg.geometry import Affine
from wsiseg.source.volumes._dicom_headers import DIFFERENCES, Frame

__all__ = ["Defect", "Grid", "defects_of", "grid_of"]

PARALLEL = 1e-3
"""Direction cosines of parallel images differ by less: 0.06 degrees, the rounding of headers."""

SQUARE = 5e-3
"""Rows and columns whose unit vectors have a larger product are not at right angles."""

SAME_PLACE_MM = 1e-2
"""Images closer together along the stack are at one place."""

TILT_DEGREES = 0.1
"""A stack that leans by less stands upright; the affine keeps the lean in any case."""

EVEN = 0.02
"""A slice may be so much of the gap away from where an even stack has it."""

ROUNDED_MM = 0.1
"""Headers that round positions to 0.1 mm put slices so far off the line between the first and the
last, which are rounded as well; up to a tenth of the gap."""

WHOLE = 0.1
"""A gap is a multiple of the usual one if it differs from it by less than this share of one."""

SHOWN = 6
"""Slices that a message lists."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong with a series."""

    kind: type[DicomSeriesError]
    text: str
    """What was needed and what was found."""

    remedy: str
    slices: tuple[str, ...] = ()
    opt_in: str = ""
    """The option that accepts it: `allow_gap` or `tilt`; empty: none does."""

    def line(self) -> str:
        """Return what a message says of it."""
        listed = ", ".join(self.slices[:SHOWN])
        more = len(self.slices) - SHOWN
        shown = f": {listed}{f' and {more} more' if more > 0 else ''}" if listed else ""
        return f"{self.text}{shown}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Slices in order, and where their voxels are."""

    frames: tuple[Frame, ...]
    affine: Affine
    """Of the grid that is read: of the slices, or of those interpolated between them."""

    places: tuple[float, ...] | None = None
    """For an uneven stack that is resampled: where each slice of the grid lies between `frames`,
    such as 2.25; `None` where the slices are the grid."""

    depth_is_stated: bool = True
    """Whether the distance between slices is known; one slice may not say how thick it is."""


def defects_of(frames: Sequence[Frame]) -> list[Defect]:
    """Return everything that keeps images from being a volume, the gravest first."""
    placed = list(_unplaced(frames))
    if placed:
        return placed
    alike = [*_localizers(frames), *_orientations(frames), *_mixed(frames)]
    if alike:
        return alike
    stack = _Stack.of(frames)
    counted = list(_repeated(stack))
    if counted:
        return counted
    return [*_gaps(stack), *_tilt(stack)]


def grid_of(frames: Sequence[Frame], name: str, *, allow_gap: bool) -> Grid:
    """Return the grid of images without defects, or with those that were accepted.

    Parameters
    ----------
    frames
        Of one series, in any order.
    name
        Of the scan, for messages.
    allow_gap
        Whether an uneven stack is resampled: linearly between the slices above and below, at even
        distances of the usual gap, from the first slice to the last.

    Raises
    ------
    MissingSpacingError
        If pixel spacing or gap are impossible.
    """
    stack = _Stack.of(frames)
    places = None
    if allow_gap and not stack.is_even:
        places = stack.even_places()
    first = stack.frames[0]
    count = len(stack.frames) if places is None else len(places)
    step = stack.normal * (first.depth or 1.0)
    if count > 1:
        step = (stack.positions[-1] - stack.positions[0]) / (count - 1)
    row, column = np.array(first.orientation).reshape(2, 3)
    between_rows, between_columns = first.spacing or (0.0, 0.0)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = row * between_columns, column * between_rows
    matrix[:3, 2], matrix[:3, 3] = step, stack.positions[0]
    try:
        affine = Affine.from_lps(matrix)
    except (GridError, MissingSpacingError) as error:
        raise MissingSpacingError(
            f"{name}: the images state no possible place: {error}; correct the headers"
        ) from error
    stated = count > 1 or first.depth is not None
    return Grid(tuple(stack.frames), affine, places, stated)


@dataclass(frozen=True, slots=True)
class _Stack:
    """Parallel images, sorted along their normal."""

    frames: list[Frame]
    positions: NDArray[Any]
    """(n, 3) in mm."""

    normal: NDArray[Any]
    heights: NDArray[Any]
    """Along the normal, in mm, from the first."""

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> "_Stack":
        """Return the images sorted; equal heights by number and file, so that any order is one."""
        row, column = np.array(frames[0].orientation, np.float64).reshape(2, 3)
        normal = np.cross(row, column)
        normal /= np.linalg.norm(normal)
        positions = np.array([frame.position for frame in frames], np.float64)
        heights = positions @ normal
        keys = [
            (round(float(h), 6), f.number or 0, f.path.name)
            for h, f in zip(heights, frames, strict=True)
        ]
        order = sorted(range(len(frames)), key=keys.__getitem__)
        heights = heights[order]
        return cls([frames[i] for i in order], positions[order], normal, heights - heights[0])

    @property
    def gaps(self) -> NDArray[Any]:
        """Between neighbours, along the normal, in mm."""
        return np.diff(self.heights)

    @property
    def usual_gap(self) -> float:
        """The middle one of the gaps."""
        return float(np.sort(self.gaps)[(len(self.gaps) - 1) // 2])

    def tolerance(self, gap: float) -> float:
        """Return how far, in mm, a slice may be from its place."""
        return max(EVEN * gap, min(ROUNDED_MM, WHOLE * gap))

    @property
    def is_even(self) -> bool:
        """Whether the slices are where an even stack between the first and the last has them."""
        if len(self.frames) < 3:
            return True
        line = np.linspace(0.0, 1.0, len(self.frames)) * self.heights[-1]
        gap = self.heights[-1] / (len(self.frames) - 1)
        return float(np.abs(self.heights - line).max()) <= self.tolerance(gap)

    def even_places(self) -> tuple[float, ...]:
        """Return where the slices of an even stack lie between those there are."""
        count = max(2, round(self.heights[-1] / self.usual_gap) + 1)
        wanted = np.linspace(0.0, self.heights[-1], count)
        places = np.interp(wanted, self.heights, np.arange(len(self.heights)))
        # a slice as good as there is taken as it is
        near = np.abs(
            np.interp(np.rint(places), np.arange(len(self.heights)), self.heights) - wanted
        )
        exact = near <= self.tolerance(self.usual_gap)
        return tuple(np.where(exact, np.rint(places), places).tolist())

    def labels(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Return what messages call some of the slices."""
        return tuple(self.frames[index].label for index in indices)


def _unplaced(frames: Sequence[Frame]) -> Iterator[Defect]:
    without = tuple(frame.label for frame in frames if not frame.has_place)
    if without:
        yield Defect(
            NoPlaceError,
            f"needed images that say where they are (position, orientation and pixel spacing), "
            f"found {len(without)} of {len(frames)} that do not, as screenshots and secondary "
            "captures",
            "remove them, or open the original series",
            without,
        )


def _localizers(frames: Sequence[Frame]) -> Iterator[Defect]:
    found = tuple(frame.label for frame in frames if frame.is_localizer)
    if found:
        some = f"{len(found)} of {len(frames)} images are localisers"
        yield Defect(
            LocalizerError,
            f"needed slices of a scan, found that {some}",
            "open another series" if len(found) == len(frames) else "remove them",
            found,
        )


def _mixed(frames: Sequence[Frame]) -> Iterator[Defect]:
    for what, values in (
        ("size", [(frame.kind.columns, frame.kind.rows) for frame in frames]),
        ("pixel spacing", [_rounded(frame.spacing) for frame in frames]),
        ("frame of reference", [frame.frame_of_reference for frame in frames]),
        ("kind of pixels", [_pixels(frame) for frame in frames]),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            others = [frame.label for frame, v in zip(frames, values, strict=True) if v != usual]
            hidden = what == "frame of reference"
            kinds = (
                len(counts) if hidden else " and ".join(map(_words, itertools.islice(counts, 3)))
            )
            yield Defect(
                MixedImagesError,
                f"needed images of one {what}, found {kinds}",
                "keep the images of one kind in the folder",
                tuple(others),
            )


def _orientations(frames: Sequence[Frame]) -> Iterator[Defect]:
    directions = np.array([frame.orientation for frame in frames], np.float64)
    row, column = directions[0, :3], directions[0, 3:]
    lengths = np.linalg.norm(directions.reshape(-1, 3), axis=1)
    leaning = np.abs((directions[:, :3] * directions[:, 3:]).sum(axis=1))
    finite = np.isfinite(directions).all() and all(
        math.isfinite(value) for frame in frames for value in frame.position or ()
    )
    if not finite or np.abs(lengths - 1).max() > SQUARE or leaning.max() > SQUARE:
        bad = [f.label for f, lean in zip(frames, leaning, strict=True) if not lean <= SQUARE]
        yield Defect(
            MixedOrientationError,
            "needed rows and columns at right angles with directions of length 1, found others",
            "correct the headers (ImageOrientationPatient)",
            tuple(bad),
        )
        return
    off = np.abs(directions - directions[0]).max(axis=1) > PARALLEL
    if off.any():
        normals = np.cross(directions[:, :3], directions[:, 3:])
        cosines = np.clip(normals @ np.cross(row, column), -1, 1)
        angle = float(np.degrees(np.arccos(cosines)).max())
        labels = [frame.label for frame, is_off in zip(frames, off, strict=True) if is_off]
        variable = 0 < angle < 45 and float(np.abs(directions[:, :3] - row).max()) <= PARALLEL
        yield Defect(
            VariableTiltError if variable else MixedOrientationError,
            f"needed parallel images, found {len(labels)} of {len(frames)} turned against the "
            f"first, by up to {angle:.1f} degrees",
            "keep the images of one orientation in the folder",
            tuple(labels),
        )


def _repeated(stack: _Stack) -> Iterator[Defect]:
    """Yield what is wrong where several images are at one place."""
    count = len(stack.frames)
    if count == 1:
        return
    starts = [0, *(int(i) + 1 for i in np.flatnonzero(stack.gaps > SAME_PLACE_MM))]
    sizes = np.diff([*starts, count])
    if len(starts) == count:
        return
    copies = [i for i in range(count) if sizes[np.searchsorted(starts, i, "right") - 1] > 1]
    if len(starts) == 1:
        yield Defect(
            NotAVolumeError,
            f"needed slices at different places, found {count} images at one",
            "it is no volume; open another series",
            stack.labels(range(count)),
        )
    elif len(set(sizes.tolist())) == 1:
        yield Defect(
            TimePointsError,
            f"needed one image at each place, found {sizes[0]} at each of {len(starts)} places, "
            f"which differ in {_reasons(stack.frames[: sizes[0]])} (4-D)",
            "keep the images of one time point, echo or direction in the folder",
            stack.labels(range(int(sizes[0]))),
        )
    else:
        yield Defect(
            DuplicateSlicesError,
            f"needed one image at each place, found several at {int((sizes > 1).sum())} of "
            f"{len(starts)} places",
            "remove the duplicates",
            stack.labels(copies),
        )


def _gaps(stack: _Stack) -> Iterator[Defect]:
    """Yield slices that are missing, and gaps that differ."""
    count = len(stack.frames)
    if count == 2:
        yield from _two(stack)
    if stack.is_even or count < 3:
        return
    gaps, usual = stack.gaps, stack.usual_gap
    parts = gaps / usual
    odd = np.flatnonzero(np.abs(gaps - usual) > stack.tolerance(usual))
    whole = np.abs(parts - np.rint(parts)) < WHOLE
    missing = [
        int(i) for i in odd if whole[i] and parts[i] > 1.5 and not _counted_on(stack, int(i))
    ]
    remedy = (
        "send all slices again, or accept interpolation between them with allow_gap=True "
        "(--allow-gap)"
    )
    sides = sorted({i for index in odd.tolist() for i in (index, index + 1)})
    if missing and len(missing) == len(odd):
        lost = sum(round(float(parts[i])) - 1 for i in missing)
        yield Defect(
            MissingSlicesError,
            f"needed slices every {usual:.4g} mm, found {lost} missing between these",
            remedy,
            stack.labels(sides),
            "allow_gap",
        )
        return
    yield Defect(
        UnevenSlicesError,
        f"needed slices at even distances, found gaps of {gaps.min():.4g} to {gaps.max():.4g} mm "
        f"(most often {usual:.4g})",
        remedy,
        stack.labels(sides),
        "allow_gap",
    )


def _counted_on(stack: _Stack, index: int) -> bool:
    """Return whether the slices beside a gap have neighbouring numbers: then none is missing."""
    here, there = stack.frames[index].number, stack.frames[index + 1].number
    return here is not None and there is not None and abs(here - there) == 1


def _two(stack: _Stack) -> Iterator[Defect]:
    """Yield whether the gap between two slices is more than their headers say, or unknown."""
    gap, stated = float(stack.gaps[0]), stack.frames[0].depth
    if stated is not None and abs(gap - stated) <= max(stack.tolerance(gap), WHOLE * gap):
        return
    said = "nothing" if stated is None else f"{stated:.4g} mm"
    yield Defect(
        NotAVolumeError,
        f"needed three slices, or two that state their distance, found two {gap:.4g} mm apart "
        f"whose headers say {said}: a slice may be missing between them",
        "send all slices, or accept the gap with allow_gap=True (--allow-gap)",
        stack.labels((0, 1)),
        "allow_gap",
    )


def _tilt(stack: _Stack) -> Iterator[Defect]:
    """Yield whether the stack leans, and whether all of it by one angle."""
    count = len(stack.frames)
    if count < 2:
        return
    steps = np.diff(stack.positions, axis=0)
    sideways = steps - np.outer(stack.gaps, stack.normal)
    whole = sideways.sum(axis=0)
    lean = math.degrees(math.atan2(float(np.linalg.norm(whole)), float(stack.heights[-1])))
    straight = np.outer(stack.gaps / stack.heights[-1], whole)
    crooked = np.linalg.norm(np.cumsum(sideways - straight, axis=0), axis=1)
    spacing = min(stack.frames[0].spacing or (1.0,))
    if float(crooked.max()) > max(stack.tolerance(stack.usual_gap), WHOLE * spacing):
        index = int(crooked.argmax())
        angles = np.degrees(np.arctan2(np.linalg.norm(sideways, axis=1), stack.gaps))
        yield Defect(
            VariableTiltError,
            f"needed slices one straight above the other, found angles of {angles.min():.1f} to "
            f"{angles.max():.1f} degrees between neighbours",
            "no grid fits them; open another series, or have it reconstructed anew",
            stack.labels(sorted({0, index, min(index + 1, count - 1)})),
        )
    elif lean > TILT_DEGREES:
        yield Defect(
            TiltedSlicesError,
            f"needed a stack at right angles to its slices, found one that leans by {lean:.1f} "
            "degrees (gantry tilt)",
            'accept a sheared grid with tilt="shear" (--tilt shear)',
            stack.labels((0, count - 1)),
            "tilt",
        )


def _reasons(frames: Sequence[Frame]) -> str:
    """Return what images of one place differ in."""
    columns = zip(*(frame.differences for frame in frames), strict=True)
    found = [
        name for name, values in zip(DIFFERENCES, columns, strict=True) if len(set(values)) > 1
    ]
    return ", ".join(found) or "nothing that is stated"


def _rounded(spacing: tuple[float, ...] | None) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in spacing or ())


def _pixels(frame: Frame) -> str:
    kind = frame.kind
    sign = "float" if kind.is_float else ("signed" if kind.is_signed else "unsigned")
    return f"{kind.samples} x {kind.stored} bit {sign} {kind.photometric}"


def _words(value: object) -> str:
    return " x ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)
