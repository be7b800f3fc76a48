"""Orientations: axes of an array permuted and reversed, exactly, there and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsiseg.errors import GridError
from wsiseg.geometry.boxes import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Reorientation", "parse_orientation"]

DIRECTIONS = {"L": (0, False), "R": (0, True), "P": (1, False), "A": (1, True), "I": (2, False),
              "S": (2, True)}  # fmt: skip
"""World axis of each letter, and whether it is the positive direction."""


@dataclass(frozen=True, slots=True)
class Reorientation:
    """A permutation of array axes with flips; the 48 of them form a group.

    Parameters
    ----------
    order
        The stored axis that becomes axis 0, 1, 2 of the result.
    flips
        Whether axis 0, 1, 2 of the result runs against the stored one.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != [0, 1, 2] or len(self.flips) != 3:
            raise GridError(f"reorientation needs 3 axes, found {self.order}, {self.flips}")

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.order == (0, 1, 2) and not any(self.flips)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (or any values per axis) of the result."""
        return tuple(shape[axis] for axis in self.order)

    def apply(self, array: "NDArray[Any]") -> "NDArray[Any]":
        """Return a view of an array `(z, y, x, ...)` in the new order."""
        moved = array.transpose(*self.order, *range(3, array.ndim))
        return moved[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def box_before(self, box: Box, shape: Sequence[int]) -> Box:
        """Return the box of the stored array that holds a box of the result.

        Parameters
        ----------
        box
            In the result.
        shape
            Of the stored array.
        """
        start, stop = [0, 0, 0], [0, 0, 0]
        for axis, flip, a, b in zip(self.order, self.flips, box.start, box.stop, strict=True):
            size = shape[axis]
            start[axis], stop[axis] = (size - b, size - a) if flip else (a, b)
        return Box(tuple(start), tuple(stop))

    def inverse(self) -> "Reorientation":
        """Return the way back."""
        order = tuple(self.order.index(axis) for axis in range(3))
        return Reorientation(order, tuple(self.flips[axis] for axis in order))

    def then(self, other: "Reorientation") -> "Reorientation":
        """Return this one followed by another."""
        order = tuple(self.order[axis] for axis in other.order)
        flips = tuple(
            flip != self.flips[axis] for axis, flip in zip(other.order, other.flips, strict=True)
        )
        return Reorientation(order, flips)


def parse_orientation(letters: str) -> tuple[tuple[int, bool], ...]:
    """Return world axis and sign for the array axes 0, 1, 2 of an orientation such as `RAS`.

    Raises
    ------
    GridError
        If it is not one letter of each of the pairs R/L, A/P and S/I.
    """
    found = [DIRECTIONS.get(letter) for letter in reversed(letters.upper())]
    known = [one for one in found if one is not None]
    if len(found) != 3 or sorted(axis for axis, _ in known) != [0, 1, 2]:
        raise GridError(
            f"orientation {letters!r}: needed three letters, one of R or L, one of A or P, one of "
            "S or I, such as RAS"
        )
    return tuple(known)
