"""From an open slide to a case: everything on the pixels of one view of it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.calibration import Probabilities, with_background
from wsiseg.evaluate.case import Case, Masks, ReadLabels, ReadProbabilities
from wsiseg.geometry import Box
from wsiseg.source import Pyramid, View
from wsiseg.stitch import HeatmapStore

__all__ = ["read_heatmap", "slide_case"]


def slide_case(
    slide: Pyramid,
    view: View,
    *,
    prediction: ReadLabels,
    reference: ReadLabels,
    probabilities: ReadProbabilities | None = None,
    raters: Sequence[ReadLabels] = (),
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Case:
    """Return the case of a slide whose labels are read at the pixels of a view of it.

    Parameters
    ----------
    slide
        Open while the case is evaluated: pictures show it.
    view
        `slide.at(spacing)`: its spacing is the one everything is compared at.
    prediction, reference
        Read labels of a box of the view, such as `open_labels(...).at(view).read`, of annotations
        or masks at any spacing.
    probabilities
        Such as `read_heatmap(...)`, for calibration.
    raters
        References of several people.
    columns
        What else is known of the slide.
    name
        Default: that of the slide.
    """
    masks = Masks(
        shape=view.shape,
        spacing=view.spacing,
        prediction=prediction,
        reference=reference,
        probabilities=probabilities,
        raters=tuple(raters),
        pixels=view.read,
    )
    return Case(
        name=name or slide.name, masks=masks, columns=columns or {}, thumbnail=slide.thumbnail
    )


def read_heatmap(heatmap: HeatmapStore, view: View, classes: Sequence[str]) -> ReadProbabilities:
    """Return a reader of a heatmap at the pixels of a view, each from the cell its centre lies in.

    Parameters
    ----------
    heatmap
        With a channel per class, in any order; the background may be missing, and is then what the
        others leave of 1.
    view
        Of the same slide.
    classes
        Names, the background first.

    Raises
    ------
    UsageError
        If a class has no channel.
    """
    known = [name for name in classes if name in heatmap.channels]
    if known not in (list(classes), list(classes[1:])):
        raise UsageError(
            f"{heatmap.path}: needed a channel for each of {list(classes)} (the first may be "
            f"missing), found {list(heatmap.channels)}"
        )
    order = [heatmap.channels.index(name) for name in known]

    def read(box: Box) -> Probabilities:
        cells = [_cells(heatmap, view, box, axis) for axis in range(len(box.shape))]
        around = Box(
            tuple(int(own.min()) for own in cells), tuple(int(own.max()) + 1 for own in cells)
        )
        inside = tuple(own - start for own, start in zip(cells, around.start, strict=True))
        values = heatmap.read(around)[..., order]
        if len(known) < len(classes):
            covered = heatmap.covered(around)
            values = np.where(covered[..., None], with_background(values), np.float32(0))
        return values[np.ix_(*inside)]

    return read


def _cells(heatmap: HeatmapStore, view: View, box: Box, axis: int) -> NDArray[np.intp]:
    """Return the cell of the heatmap in which the centre of each pixel of the view lies."""
    l0_centres = (np.arange(box.start[axis], box.stop[axis]) + 0.5) * view.downsample[axis]
    place = heatmap.placement
    cells = np.floor((l0_centres - place.origin[axis]) / place.downsample[axis])
    clipped: NDArray[np.intp] = np.clip(cells, -1, place.shape[axis]).astype(np.intp)
    return clipped  # outside the heatmap there is no answer
