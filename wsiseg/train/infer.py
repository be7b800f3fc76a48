"""Networks in training over whole regions in memory: what the engine does, in twenty lines."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsiseg.geometry import Box
from wsiseg.grid import Grid
from wsiseg.resample import linear
from wsiseg.resample.linear import linear_span
from wsiseg.train.fit import to_tensors
from wsiseg.train.sampling import GLASS, Batch

__all__ = ["predict_cells", "predict_pixels", "resample_cells"]

BATCH = 64


@torch.inference_mode()
def predict_cells(
    network: nn.Module,
    image: NDArray[np.uint8],
    *,
    patch: int,
    stride: int,
    within: tuple[slice, slice] | None = None,
) -> NDArray[np.float32]:
    """Return the class probabilities of the patches around each cell of `stride` pixels.

    Parameters
    ----------
    network
        Patch classifier.
    image
        (y, x, 3) uint8; white outside.
    patch, stride
        Pixels; the patch is centred on its cell of `stride` pixels.
    within
        The cells wanted; default all.

    Returns
    -------
    float32 (cells along y, cells along x, class); 0 for cells not wanted.
    """
    halo = (patch - stride) // 2
    grid = Grid(image.shape[:2], (stride, stride), (halo, halo), (0, 0))
    padded = np.pad(image, ((halo, patch), (halo, patch), (0, 0)), constant_values=GLASS)
    wanted = np.zeros(grid.counts, np.bool_)
    wanted[within or (...,)] = True
    indices = np.argwhere(wanted)
    values = []
    for first in range(0, len(indices), BATCH):
        tiles = (grid.tile((int(y), int(x))) for y, x in indices[first : first + BATCH])
        patches = [padded[tile.read.shift((halo, halo)).slices()] for tile in tiles]
        values.append(_probabilities(network, np.stack(patches), None))
    probabilities = np.concatenate(values)
    cells = np.zeros((*grid.counts, probabilities.shape[1]), np.float32)
    cells[wanted] = probabilities
    return cells


@torch.inference_mode()
def predict_pixels(
    network: nn.Module,
    image: NDArray[np.uint8],
    heatmap: Callable[[Box], NDArray[np.float32]] | None,
    *,
    multiple: int,
    halo: int,
) -> NDArray[np.float32]:
    """Return the class probabilities of each pixel, from one pass over the whole region.

    Parameters
    ----------
    network
        Segmenter.
    image
        (y, x, 3) uint8; white outside.
    heatmap
        Gives the second input, float32 (*box.shape, channel), for any box of pixels, also beyond
        the image; `None` for a network of the image alone.
    multiple
        What the network's height and width must be a multiple of.
    halo
        Pixels read around the region: the receptive-field radius or more, a multiple of
        `multiple`.

    Returns
    -------
    float32 (y, x, class)
    """
    height, width = image.shape[:2]
    rows, columns = ((halo, halo + -size % multiple) for size in (height, width))
    padded = np.pad(image, (rows, columns, (0, 0)), constant_values=GLASS)
    box = Box.of_shape(padded.shape[:2]).shift((-halo, -halo))
    extra = None if heatmap is None else heatmap(box)[None]
    whole = _probabilities(network, padded[None], extra)[0]
    inside: NDArray[np.float32] = whole[halo : halo + height, halo : halo + width]
    return inside


def resample_cells(cells: NDArray[np.float32], target: Box, ratio: float) -> NDArray[np.float32]:
    """Return cells interpolated to the pixels of `target`; cells outside are 0, as in a run.

    Parameters
    ----------
    cells
        float32 (y, x, channel).
    target
        Pixels wanted, counted from the corner of the first cell.
    ratio
        Cells per pixel.
    """
    span = linear_span(target, (ratio, ratio))
    inside = zip(span.start, span.stop, cells.shape, strict=False)
    before_after = [(max(0, -a), max(0, b - n)) for a, b, n in inside]
    padded = np.pad(cells, (*before_after, (0, 0)))
    box = Box.of_shape(padded.shape[:2]).shift([-before for before, _ in before_after])
    return linear(padded, box, target, (ratio, ratio))


def _probabilities(
    network: nn.Module, images: NDArray[np.uint8], heatmaps: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    batch = Batch(images, np.zeros(images.shape[:3], np.uint8), heatmaps)
    logits = network.eval()(*to_tensors(batch))
    return np.asarray(logits.softmax(dim=1).movedim(1, -1), dtype=np.float32)
