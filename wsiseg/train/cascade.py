"""The two-stage recipe: patch classifier -> out-of-fold heatmap -> refinement network."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsiseg.geometry import ceil_div
from wsiseg.model.networks import build, receptive_field_radius
from wsiseg.train.augment import jitter_colour
from wsiseg.train.fit import FitOptions, fit
from wsiseg.train.infer import predict_cells, predict_pixels, resample_cells
from wsiseg.train.losses import patch_loss, segmentation_loss
from wsiseg.train.sampling import PatchSampler, Region, keep_away, split_blocks

__all__ = [
    "CellModel",
    "Recipe",
    "RegionViews",
    "cell_model",
    "out_of_fold",
    "refine",
    "train_classifier",
    "train_refiner",
]

log = logging.getLogger(__name__)

CLASSES = 2
"""Background and tumour."""

RegionViews = Callable[[float], Region]
"""One region at any spacing, in µm per pixel."""

CellModel = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From an image (y, x, 3) to the tumour probability of its cells, (y, x, 1)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is trained. Sizes are pixels at the stage's spacing."""

    spacing_um: float = 1.0
    patch: int = 64
    stride: int = 16
    classifier: dict[str, Any] = field(default_factory=lambda: {"width": 0.35})
    classifier_fit: FitOptions = field(default_factory=lambda: FitOptions(steps=800, batch=64))

    refine_spacing_um: float = 2.0
    refine_patch: int = 128
    refine_halo: int = 64
    refiner: dict[str, Any] = field(
        default_factory=lambda: {"widths": [8, 16, 32], "bottleneck": 64}
    )
    refiner_fit: FitOptions = field(default_factory=lambda: FitOptions(steps=500, batch=8))

    scales: tuple[float, ...] = (0.9, 0.95, 1.0, 1.05, 1.1)
    """Spacings seen in training, relative to the nominal one."""

    blocks: int = 2
    """Parts of a single training region, each left out once to get its heatmap."""

    keep: Path | None = None
    """Folder for the weights of every network; one trained with the same recipe and data names is
    taken from there, so that an interrupted run goes on where it was."""


def train_classifier(
    regions: Sequence[RegionViews], recipe: Recipe, *, without_block: int | None = None
) -> nn.Module:
    """Train the patch classifier, on request without one block of each region and its surround."""
    views = [
        [
            _without_block(region(recipe.spacing_um * scale), recipe, without_block)
            for scale in recipe.scales
        ]
        for region in regions
    ]
    torch.manual_seed(recipe.classifier_fit.seed)
    network = build(
        "wsiseg.mobilenet_v2", channels=(3,), classes=CLASSES, arguments=recipe.classifier
    )
    loss = partial(patch_loss, cell=recipe.stride)
    sampler = PatchSampler(views, patch=recipe.patch)
    what = f"classifier of {_names(views)} without block {without_block}"
    _fit_or_load(what, network, sampler, loss, recipe.classifier_fit, recipe)
    return network


def out_of_fold(region: RegionViews, recipe: Recipe) -> CellModel:
    """Return a model of a region's heatmap in which no cell comes from a network that saw it.

    The region is cut into blocks; a block's cells come from a classifier trained on the rest of
    the region, with patches centred a patch or more away from the block.
    """
    networks = [
        train_classifier([region], recipe, without_block=block) for block in range(recipe.blocks)
    ]

    def cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        blocks = _cell_blocks(image.shape[:2], recipe)
        parts = [
            cell_model(network, recipe, within=block)(image)
            for network, block in zip(networks, blocks, strict=True)
        ]
        whole: NDArray[np.float32] = np.sum(parts, axis=0)  # each is 0 outside its block
        return whole

    return cells


def train_refiner(
    regions: Sequence[RegionViews], recipe: Recipe, heatmaps: Sequence[CellModel] | None
) -> nn.Module:
    """Train the refinement network.

    Parameters
    ----------
    regions
        Where to learn from.
    recipe
        What to train.
    heatmaps
        Per region, a model that has not seen it: the network learns how far to trust a heatmap
        of new tissue, not of tissue learned by heart. `None`: a network of the image alone.
    """
    channels = (3,) if heatmaps is None else (3, 1)
    models = [None] * len(regions) if heatmaps is None else heatmaps
    views = [
        _refiner_views(region, model, recipe) for region, model in zip(regions, models, strict=True)
    ]
    torch.manual_seed(recipe.refiner_fit.seed)
    network = build("wsiseg.h2g_unet", channels=channels, classes=CLASSES, arguments=recipe.refiner)
    sampler = PatchSampler(views, patch=recipe.refine_patch)
    what = f"refiner of {_names(views)} with inputs {channels}"
    _fit_or_load(what, network, sampler, segmentation_loss, recipe.refiner_fit, recipe)
    return network


def cell_model(
    network: nn.Module, recipe: Recipe, *, within: tuple[slice, slice] | None = None
) -> CellModel:
    """Return what gives the tumour probability of the cells of an image at the first spacing."""

    def cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes = {"patch": recipe.patch, "stride": recipe.stride}
        return predict_cells(network, image, within=within, **sizes)[..., 1:]

    return cells


def refine(
    network: nn.Module,
    image: NDArray[np.uint8],
    cells: NDArray[np.float32] | None,
    recipe: Recipe,
) -> NDArray[np.float32]:
    """Return the tumour probability (y, x) of an image at the refinement spacing."""
    levels = len(recipe.refiner["widths"])
    margin = -(-receptive_field_radius(levels) // 2**levels) * 2**levels
    heatmap = None if cells is None else _at_refinement(cells, image, recipe)
    whole = predict_pixels(network, image, heatmap, multiple=2**levels, margin=margin)
    return whole[..., 1]


def _cell_blocks(shape: tuple[int, ...], recipe: Recipe) -> tuple[tuple[slice, slice], ...]:
    counts = tuple(ceil_div(n, recipe.stride) for n in shape)
    return split_blocks(counts, recipe.blocks)


def _without_block(region: Region, recipe: Recipe, index: int | None) -> Region:
    if index is None:
        return region
    shape = region.labels.shape
    rows, columns = (
        slice(cells.start * recipe.stride, cells.stop * recipe.stride)
        for cells in _cell_blocks(shape, recipe)[index]
    )
    return replace(region, allowed=keep_away(shape, (rows, columns), recipe.patch))


def _refiner_views(region: RegionViews, model: CellModel | None, recipe: Recipe) -> list[Region]:
    """Return the region at each scale, every other time with the heatmap of a recoloured image."""
    views = []
    rng = np.random.default_rng(recipe.refiner_fit.seed)
    for index, scale in enumerate(recipe.scales):
        coarse = region(recipe.refine_spacing_um * scale)
        if model is None:
            views.append(coarse)
            continue
        image = region(recipe.spacing_um * scale).image
        if index % 2:
            image = jitter_colour(image[None], rng, recipe.classifier_fit.augment)[0]
        heatmap = _at_refinement(model(image), coarse.image, recipe)
        views.append(replace(coarse, heatmap=heatmap))
    return views


def _at_refinement(
    cells: NDArray[np.float32], image: NDArray[np.uint8], recipe: Recipe
) -> NDArray[np.float32]:
    ratio = recipe.refine_spacing_um / (recipe.spacing_um * recipe.stride)
    return resample_cells(cells, image.shape[:2], ratio)
