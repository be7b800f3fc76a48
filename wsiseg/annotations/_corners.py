"""Where the outlines of a label mask turn: the corners of its pixel edges, strip by strip.

A lattice point `(y, x)` is the upper left corner of pixel `[y, x]`. Four pixels meet there, and a
pixel makes a corner of its own class exactly when both of its neighbours there agree:

* neither neighbour has its value: a convex corner, whatever lies across the point, so two pixels
  that touch at the point only make two corners (the foreground is 4-connected);
* both have it, and the pixel across has not: a concave corner.

Everywhere else the outline runs straight on, so no collinear vertex ever arises and every corner
is known from a 2 x 2 window, wherever a mask is cut into strips.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Corners", "find_corners"]


@dataclass(frozen=True, slots=True)
class Corners:
    """Corners of all classes in columns of length n, sorted by (y, x).

    At a point where two corners of one class meet, the one with its horizontal edge to the left
    comes first.
    """

    y: NDArray[np.int32]
    x: NDArray[np.int32]
    value: NDArray[Any]
    """Label of the outline that turns here; integers of the mask's type."""

    starts_edge: NDArray[np.bool_]
    """The horizontal edge is left from here (else it arrives here); outlines keep their pixels on
    the left when y is taken upwards, which makes shells counter-clockwise in (x, y)."""

    points_down: NDArray[np.bool_]
    """The vertical edge goes to larger y (else to smaller y)."""

    run_start: NDArray[np.int32]
    """Where a hole may begin (all but the lower right pixel, and perhaps the upper left one, have
    the value): x of the left end of the run of equal pixels that ends here in the row below; else
    -1."""

    def __len__(self) -> int:
        return len(self.y)

    @classmethod
    def concatenate(cls, parts: "list[Corners]") -> "Corners":
        """Return the corners of consecutive strips as one."""
        columns = (np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        return cls(*columns)

    def take(self, order: NDArray[Any]) -> "Corners":
        """Return the corners at the indices `order`."""
        return Corners(*(getattr(self, f.name)[order] for f in fields(self)))


def find_corners(padded: NDArray[Any], *, top: int, background: int) -> Corners:
    """Return the corners on the lattice lines between the rows of a strip.

    Parameters
    ----------
    padded
        Integers (h + 1, w + 2): a row, the `h` rows below it, and a column of `background` on the
        left and on the right. The `h` lattice lines between its rows are looked at.
    top
        y of the first of these lines.
    background
        Label without outlines.
    """
    across = padded[:, 1:] != padded[:, :-1]
    down = padded[1:] != padded[:-1]
    turns = (across[:-1] | across[1:]) & (down[:, :-1] | down[:, 1:])
    at = np.flatnonzero(turns)
    line, column = _split(at, turns.shape[1])

    pixels = _pixels_around(padded, at + line)
    agree = np.empty((4, 2, len(at)), bool)  # per pixel: does the neighbour beside, above have it
    upper_left, lower_left, upper_right, lower_right = pixels
    agree[0::2, 0] = upper_left == upper_right
    agree[1::2, 0] = lower_left == lower_right
    agree[:2, 1] = upper_left == lower_left
    agree[2:, 1] = upper_right == lower_right
    is_corner = (agree[:, 0] == agree[:, 1]) & (pixels != background)

    found = np.flatnonzero(is_corner.T)  # by point, then pixel: left pixels come first
    point, pixel = found >> 2, (found & 3).astype(np.uint8)
    concave = agree[pixel, 0, point]
    lower = (pixel & 1).astype(bool)
    on_rising_diagonal = (pixel == 1) | (pixel == 2)
    value = pixels[pixel, point]
    around = pixels[1:, point] == value
    hole_begins = around[0] & around[1] & ~around[2]
    return Corners(
        y=(line[point] + top).astype(np.int32),
        x=column[point].astype(np.int32),
        value=value,
        starts_edge=on_rising_diagonal == concave,
        points_down=lower != concave,
        run_start=_run_starts(across[1:], at[point], hole_begins),
    )


def _split(at: NDArray[np.intp], width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    line = at // width
    return line, at - line * width


def _pixels_around(padded: NDArray[Any], upper_left: NDArray[np.intp]) -> NDArray[Any]:
    """Return the labels (4, n) around points: upper left, lower left, upper right, lower right."""
    flat, width = padded.ravel(), padded.shape[1]
    return np.stack([flat[upper_left + step] for step in (0, width, 1, width + 1)])


def _run_starts(
    across: NDArray[np.bool_], at: NDArray[np.intp], wanted: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Return, where `wanted`, the change of label before the one at flat index `at`; else -1."""
    starts = np.full(len(at), -1, np.int32)
    if wanted.any():
        changes = np.flatnonzero(across)
        before = changes[np.searchsorted(changes, at[wanted]) - 1]
        starts[wanted] = before % across.shape[1]
    return starts
