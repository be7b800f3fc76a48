"""Where voxels are in the patient: indices in array order to millimetres."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsiseg.errors import GridError
from wsiseg.geometry.boxes import Spacing
from wsiseg.geometry.orientation import Reorientation, parse_orientation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Affine"]

FLATTEST = 1e-4
"""Voxels whose volume is less than this share of the box of their edges are no solid: an axis lies
(nearly) in the plane of the others."""

TIE = 1e-6
"""Assignments of axes whose scores differ by less are equally good."""

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Affine:
    """Voxel centres in array order (z, y, x) to world millimetres, RAS+.

    World axes are x to the patient's right, y to anterior, z to superior, as in NIfTI. Voxel `i`
    has its centre at index `i`.

    Parameters
    ----------
    matrix
        4 x 4. Columns are the array axes 0, 1, 2 and the origin (mm per step, and the centre of
        voxel (0, 0, 0) in mm); rows are x, y, z and (0, 0, 0, 1). Shears are allowed.

    Raises
    ------
    GridError
        If it is no such matrix: another size, not finite, or without volume.
    MissingSpacingError
        If the distance between voxels along an axis is absurd.
    """

    matrix: Matrix

    def __post_init__(self) -> None:
        rows = tuple(tuple(float(value) for value in row) for row in self.matrix)
        object.__setattr__(self, "matrix", rows)
        if len(rows) != 4 or any(len(row) != 4 for row in rows) or rows[3] != (0, 0, 0, 1):
            raise GridError(f"affine needs 4 x 4 values with last row 0 0 0 1, found {rows}")
        if not all(math.isfinite(value) for row in rows for value in row):
            raise GridError(f"affine needs finite values, found {rows}")
        edges = math.prod(math.hypot(*column) for column in self.columns)
        if abs(_determinant(self.columns)) <= FLATTEST * edges:
            raise GridError(f"affine needs three axes that span space, found {rows[:3]}")
        _ = self.spacing

    @classmethod
    def from_nifti(cls, matrix: "ArrayLike") -> "Affine":
        """Return the affine for a NIfTI matrix, whose columns are (i, j, k), the fastest first."""
        return cls(_swapped(_rows(matrix)))

    @classmethod
    def from_lps(cls, matrix: "ArrayLike") -> "Affine":
        """Return the affine for a matrix of ITK or DICOM: columns (i, j, k), world L, P, S."""
        x, y, z, last = _rows(matrix)
        return cls(_swapped((_negated(x), _negated(y), z, last)))

    @classmethod
    def from_spacing(
        cls, spacing_mm: Sequence[float], origin: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> "Affine":
        """Return the upright affine: array axes z, y, x grow to superior, anterior, right.

        Parameters
        ----------
        spacing_mm
            mm per voxel, (z, y, x).
        origin
            Centre of voxel (0, 0, 0), (x, y, z) in mm.
        """
        z, y, x = (float(value) for value in spacing_mm)
        ox, oy, oz = (float(value) for value in origin)
        return cls(((0, 0, x, ox), (0, y, 0, oy), (z, 0, 0, oz), (0, 0, 0, 1)))

    def to_nifti(self) -> "NDArray[np.float64]":
        """Return the 4 x 4 matrix of NIfTI, float64: columns (i, j, k), world R, A, S."""
        import numpy as np

        return np.array(_swapped(self.matrix), dtype=np.float64)

    def to_lps(self) -> "NDArray[np.float64]":
        """Return the 4 x 4 matrix of ITK and DICOM, float64: columns (i, j, k), world L, P, S."""
        matrix = self.to_nifti()
        matrix[:2] *= -1
        return matrix + 0.0  # no negative zeros

    @property
    def columns(self) -> tuple[tuple[float, ...], ...]:
        """World step (x, y, z) in mm along each array axis."""
        return tuple(tuple(self.matrix[row][axis] for row in range(3)) for axis in range(3))

    @property
    def origin(self) -> tuple[float, ...]:
        """Centre of voxel (0, 0, 0), (x, y, z) in mm."""
        return tuple(self.matrix[row][3] for row in range(3))

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Millimetres between neighbouring centres along each array axis, (z, y, x)."""
        return tuple(math.hypot(*column) for column in self.columns)

    @property
    def spacing(self) -> Spacing:
        """µm between neighbouring centres along each array axis, (z, y, x)."""
        return Spacing.from_mm(self.spacing_mm)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm³; right for sheared affines, too."""
        return abs(_determinant(self.columns))

    @property
    def codes(self) -> tuple[str, ...]:
        """Direction in which each array axis grows: `R` or `L`, `A` or `P`, `S` or `I`."""
        axes = _nearest_axes(self.columns)
        pairs = ("LR", "PA", "IS")
        return tuple(
            pairs[world][_grows(column, world)]
            for world, column in zip(axes, self.columns, strict=True)
        )

    @property
    def orientation(self) -> str:
        """Directions of the array axes from the last to the first, such as `RAS` (NIfTI's way)."""
        return "".join(reversed(self.codes))

    def world(self, points: "ArrayLike") -> "NDArray[np.float64]":
        """Return world points `(n, 3)` (x, y, z) in mm of indices `(n, 3)` in array order."""
        import numpy as np

        matrix = np.array(self.matrix)
        found: NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:3, :3].T
        found += matrix[:3, 3]
        return found

    def voxel(self, points: "ArrayLike") -> "NDArray[np.float64]":
        """Return indices `(n, 3)` in array order, not rounded, of world points `(n, 3)` in mm."""
        import numpy as np

        matrix = np.array(self.matrix)
        shifted = np.asarray(points, np.float64) - matrix[:3, 3]
        found: NDArray[np.float64] = shifted @ np.linalg.inv(matrix[:3, :3]).T
        return found

    def turn_to(self, orientation: str) -> Reorientation:
        """Return the permutation and flips that bring the array to an orientation.

        Parameters
        ----------
        orientation
            Such as `RAS`: the last array axis shall grow to the right, the middle one to anterior,
            the first to superior. Oblique axes go by the nearest direction.

        Raises
        ------
        GridError
            If it is no orientation.
        """
        wanted = parse_orientation(orientation)
        found = {code_axis: axis for axis, code_axis in enumerate(_nearest_axes(self.columns))}
        order = tuple(found[world] for world, _ in wanted)
        flips = tuple(
            _grows(self.columns[axis], world) != up
            for axis, (world, up) in zip(order, wanted, strict=True)
        )
        return Reorientation(order, flips)

    def turned(self, turn: Reorientation, shape: Sequence[int]) -> "Affine":
        """Return the affine of an array of `shape` after a permutation and flips of its axes."""
        columns, origin = [], list(self.origin)
        for axis, flip in zip(turn.order, turn.flips, strict=True):
            column = self.columns[axis]
            if flip:
                origin = [
                    o + (shape[axis] - 1) * step for o, step in zip(origin, column, strict=True)
                ]
            columns.append(_negated(column) if flip else column)
        return Affine.from_columns(columns, origin)

    @classmethod
    def from_columns(cls, columns: Sequence[Sequence[float]], origin: Sequence[float]) -> "Affine":
        """Return the affine with these world steps per array axis and this centre of voxel 0."""
        rows = zip(*columns, origin, strict=True)
        return cls((*(tuple(row) for row in rows), (0.0, 0.0, 0.0, 1.0)))

    def resampled(self, factors: Sequence[float]) -> "Affine":
        """Return the affine of the same field in voxels `factors` times as large, per array axis.

        The outer faces of voxel 0 stay where they are, so the centre moves by (factor - 1) / 2
        voxels. This is the one place where that half voxel is reckoned.
        """
        origin = list(self.origin)
        for column, factor in zip(self.columns, factors, strict=True):
            origin = [o + (factor - 1) / 2 * step for o, step in zip(origin, column, strict=True)]
        columns = [
            tuple(factor * step for step in column)
            for column, factor in zip(self.columns, factors, strict=True)
        ]
        return Affine.from_columns(columns, origin)

    def cropped(self, start: Sequence[int]) -> "Affine":
        """Return the affine of the part that begins at voxel `start`; negative: padded."""
        origin = [
            o + sum(n * column[row] for n, column in zip(start, self.columns, strict=True))
            for row, o in enumerate(self.origin)
        ]
        return Affine.from_columns(self.columns, origin)

    def is_close(self, other: "Affine", atol_mm: float = 1e-4) -> bool:
        """Return whether all values agree to `atol_mm`."""
        pairs = zip(itertools.chain(*self.matrix), itertools.chain(*other.matrix), strict=True)
        return all(abs(a - b) <= atol_mm for a, b in pairs)


def _rows(matrix: "ArrayLike") -> Matrix:
    import numpy as np

    array = np.asarray(matrix, dtype=np.float64)
    if array.shape != (4, 4):
        raise GridError(f"affine needs 4 x 4 values, found {array.shape}")
    return tuple(tuple(row) for row in array.tolist())


def _swapped(rows: Matrix) -> Matrix:
    """Return the matrix with its first three columns in reverse order."""
    return tuple((c, b, a, o) for a, b, c, o in rows)


def _negated(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(0.0 - value for value in values)  # 0.0 -: no negative zeros


def _determinant(columns: Sequence[Sequence[float]]) -> float:
    (a, b, c), (d, e, f), (g, h, i) = columns
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _grows(column: Sequence[float], world: int) -> bool:
    """Return whether a step goes up along a world axis; if neither, along the first it moves on."""
    return next((step for step in (column[world], *column) if step), 0.0) > 0


def _nearest_axes(columns: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Return the world axis (0, 1, 2) that serves each array axis.

    The one-to-one assignment with the largest sum of squared direction cosines of the nearest
    rotation (the orthogonal polar factor of the unit steps), so that a shear pulls no axis along.
    Ties (axes at 45 degrees) are decided by the directions alone, never by the order of the array's
    axes: the same anatomy is always turned in the same way.
    """
    import numpy as np

    steps = np.array(columns).T
    u, _, v = np.linalg.svd(steps / np.linalg.norm(steps, axis=0))
    cosines = u @ v  # world axis, array axis
    choices = list(itertools.permutations(range(3)))
    scores = [sum(cosines[w, a] ** 2 for a, w in enumerate(choice)) for choice in choices]
    best = [
        choice for choice, score in zip(choices, scores, strict=True) if score > max(scores) - TIE
    ]
    return max(best, key=lambda choice: _directions(cosines, choice))


def _directions(cosines: "NDArray[np.float64]", choice: Sequence[int]) -> tuple[float, ...]:
    """Return the directions that serve x, y and z, without their signs of reading, to compare."""
    found: list[float] = []
    for world in range(3):
        column = cosines[:, choice.index(world)]
        sign = 1.0 if column[world] >= 0 else -1.0
        found += [round(float(sign * value), 5) + 0.0 for value in column]
    return tuple(found)
