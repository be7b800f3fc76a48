"""Patches from annotated regions: balanced, drawn on the fly, nothing stored on disk.

A region has one or more *views*: the same tissue at slightly different spacings. Drawing goes
region -> view -> class -> place, each with equal chances, as H2G-Net does over slides
(Pedersen et al. 2022, doi:10.3389/fmed.2022.971873), so that neither the largest region nor the
commonest class decides what is learned.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import TrainingError

__all__ = ["Batch", "PatchSampler", "Region", "keep_away", "split_blocks"]

GLASS = 255
"""What lies outside a region: white, as outside a slide."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One annotated region at one spacing. Everything has the same height and width.

    Raises
    ------
    TrainingError
        If the shapes or types do not fit.
    """

    name: str

    image: NDArray[np.uint8]
    """(y, x, 3) RGB."""

    labels: NDArray[np.uint8]
    """(y, x) class indices, 0 is background."""

    heatmap: NDArray[np.float32] | None = None
    """(y, x, channel) probabilities 0..1 of an earlier stage that has not seen this tissue."""

    allowed: NDArray[np.bool_] | None = None
    """(y, x), where patch centres may lie; `None` is everywhere."""

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise TrainingError(
                f"region {self.name}: needed an image (y, x, 3) uint8, found "
                f"{self.image.shape} {self.image.dtype}"
            )
        for what, array in (
            ("labels", self.labels),
            ("heatmap", self.heatmap),
            ("allowed", self.allowed),
        ):
            if array is not None and array.shape[:2] != self.image.shape[:2]:
                raise TrainingError(
                    f"region {self.name}: image of {self.image.shape[:2]} pixels but {what} of "
                    f"{array.shape[:2]}; resample them to one grid"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Patches of one size, `n` of them."""

    image: NDArray[np.uint8]
    """(n, y, x, 3) RGB."""

    labels: NDArray[np.uint8]
    """(n, y, x) class indices."""

    heatmap: NDArray[np.float32] | None = None
    """(n, y, x, channel) probabilities, where the regions have them."""


class PatchSampler:
    """Draws square patches from regions.

    Parameters
    ----------
    regions
        The views of each region.
    patch
        Side of a patch in pixels. A patch may overhang its region by up to half: there the image
        is white, the labels and the heatmap are 0.

    Raises
    ------
    TrainingError
        If there is no region, or a view allows no centre at all.
    """

    def __init__(self, regions: Sequence[Sequence[Region]], *, patch: int) -> None:
        if not regions or not all(regions):
            raise TrainingError(f"training needs regions with at least one view, found {regions}")
        self.patch = patch
        self._views = [[_View.of(view, patch) for view in views] for views in regions]

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """Return `count` patches; the same generator state gives the same patches."""
        drawn = [self._one(rng) for _ in range(count)]
        heatmaps = [heatmap for _, _, heatmap in drawn if heatmap is not None]
        return Batch(
            image=np.stack([image for image, _, _ in drawn]),
            labels=np.stack([labels for _, labels, _ in drawn]),
            heatmap=np.stack(heatmaps) if heatmaps else None,
        )

    def _one(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32] | None]:
        views = self._views[rng.integers(len(self._views))]
        view = views[rng.integers(len(views))]
        centres = view.centres[rng.integers(len(view.centres))]
        row, column = divmod(int(centres[rng.integers(len(centres))]), view.width)
        cut = (slice(row, row + self.patch), slice(column, column + self.patch))
        padded = view.padded
        return (
            padded.image[cut],
            padded.labels[cut],
            None if padded.heatmap is None else padded.heatmap[cut],
        )


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    padded: Region
    """Half a patch wider on each side: pixel (y, x) of the region is the patch corner (y, x)."""

    centres: tuple[NDArray[np.int64], ...]
    """Per class present, the flat indices of its allowed pixels."""

    width: int

    @classmethod
    def of(cls, region: Region, patch: int) -> "_View":
        allowed = np.ones(region.labels.shape, np.bool_)
        if region.allowed is not None:
            allowed = region.allowed
        by_class = [
            np.flatnonzero(allowed & (region.labels == value)) for value in np.unique(region.labels)
        ]
        centres = tuple(places for places in by_class if len(places))
        if not centres:
            raise TrainingError(
                f"region {region.name}: no pixel may be the centre of a patch; hold out a smaller "
                "block or take a smaller patch"
            )
        around = ((patch // 2, patch - patch // 2),) * 2
        padded = Region(
            name=region.name,
            image=np.pad(region.image, (*around, (0, 0)), constant_values=GLASS),
            labels=np.pad(region.labels, around),
            heatmap=None if region.heatmap is None else np.pad(region.heatmap, (*around, (0, 0))),
        )
        return cls(padded, centres, region.labels.shape[1])


def split_blocks(shape: tuple[int, ...], count: int) -> tuple[tuple[slice, slice], ...]:
    """Return `count` blocks that partition a region (y, x) across its longer side."""
    axis = int(shape[1] > shape[0])
    edges = np.linspace(0, shape[axis], count + 1).round().astype(int)
    spans = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    whole = slice(0, shape[1 - axis])
    return tuple((whole, span) if axis else (span, whole) for span in spans)


def keep_away(shape: tuple[int, ...], block: tuple[slice, slice], guard: int) -> NDArray[np.bool_]:
    """Return the pixels (y, x) that are at least `guard` pixels away from a block.

    With a guard of one patch, patches centred there leave half a patch of tissue between
    themselves and the block.
    """
    allowed = np.ones(shape, np.bool_)
    allowed[tuple(slice(max(0, s.start - guard), s.stop + guard) for s in block)] = False
    return allowed
