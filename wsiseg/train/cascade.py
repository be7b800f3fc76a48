"""The two-stage recipe: patch classifier -> out-of-fold heatmap -> refinement network."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import nn

from wsiseg.geometry import Box, ceil_div
from wsiseg.model.networks import build, receptive_field_radius
from wsiseg.train.augment import jitter_colour
from wsiseg.train.fit import FitOptions, fit
from wsiseg.train.infer import predict_cells, predict_pixels, resample_cells
from wsiseg.train.losses import patch_loss, segmentation_loss
from wsiseg.train.sampling import PatchSampler, Region, keep_away, split_blocks

__all__ = [
    "CellModel",
    "PatchRecipe",
    "Recipe",
    "RefineRecipe",
    "RegionViews",
    "Trained",
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
class PatchRecipe:
    """The patch classifier. Sizes are pixels at its spacing."""

    spacing_um: float = 1.0
    patch: int = 64
    stride: int = 16
    arguments: dict[str, Any] = field(default_factory=lambda: {"width": 0.35})
    fit: FitOptions = field(default_factory=lambda: FitOptions(steps=800, batch=64))


@dataclass(frozen=True, slots=True)
class RefineRecipe:
    """The refinement network. Sizes are pixels at its spacing."""

    spacing_um: float = 2.0
    patch: int = 128
    arguments: dict[str, Any] = field(
        default_factory=lambda: {"widths": [8, 16, 32], "bottleneck": 64}
    )
    fit: FitOptions = field(default_factory=lambda: FitOptions(steps=500, batch=8))

    @property
    def multiple(self) -> int:
        """What heights and widths must be a multiple of."""
        return int(2 ** len(self.arguments["widths"]))

    @property
    def halo(self) -> int:
        """The receptive-field radius, rounded up to whole bottleneck pixels."""
        radius = receptive_field_radius(len(self.arguments["widths"]))
        return ceil_div(radius, self.multiple) * self.multiple


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is trained."""

    patches: PatchRecipe = field(default_factory=PatchRecipe)
    refine: RefineRecipe = field(default_factory=RefineRecipe)

    scales: tuple[float, ...] = (0.9, 0.95, 1.0, 1.05, 1.1)
    """Spacings seen in training, relative to those of the stages."""

    blocks: int = 2
    """Parts of a single training region, each left out once to get its heatmap."""

    def key(self, *, refine: bool) -> str:
        """Return a text that is equal exactly for recipes that train the same network."""
        return repr((self.patches, self.scales, self.blocks, self.refine if refine else None))


class Trained:
    """Networks trained so far, so that an interrupted run goes on where it was.

    They are told apart by recipe and region names: other pixels under the same names need another
    folder.

    Parameters
    ----------
    folder
        One file of weights per network; `None` keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def fit(self, key: str, network: nn.Module, train: Callable[[nn.Module], object]) -> None:
        """Give `network` the weights kept under `key`, or train it and keep them."""
        if self._folder is None:
            train(network)
            return
        path = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        if path.is_file():
            log.info("taken from %s: %s", path, key.partition(":")[0])
            load_model(network, path)
            return
        log.info("training: %s", key.partition(":")[0])
        train(network)
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        save_model(network, str(unfinished))
        unfinished.rename(path)


def train_classifier(
    regions: Sequence[RegionViews],
    recipe: Recipe,
    trained: Trained,
    *,
    without_block: int | None = None,
) -> nn.Module:
    """Train the patch classifier, on request without one block of each region and its surround."""
    stage = recipe.patches
    views = [
        [
            _without_block(region(stage.spacing_um * scale), recipe, without_block)
            for scale in recipe.scales
        ]
        for region in regions
    ]
    torch.manual_seed(stage.fit.seed)
    network = build(
        "wsiseg.mobilenet_v2", channels=(3,), classes=CLASSES, arguments=stage.arguments
    )
    sampler = PatchSampler(views, patch=stage.patch)
    loss = partial(patch_loss, cell=stage.stride)
    key = f"classifier of {_names(views)} without block {without_block}: {recipe.key(refine=False)}"
    trained.fit(key, network, lambda network: fit(network, sampler, loss, stage.fit))
    return network.eval()


def out_of_fold(region: RegionViews, recipe: Recipe, trained: Trained) -> CellModel:
    """Return a model of a region's heatmap in which no cell comes from a network that saw it.

    The region is cut into blocks; a block's cells come from a classifier trained on the rest of
    the region, with patches centred a patch or more away from the block.
    """
    networks = [
        train_classifier([region], recipe, trained, without_block=block)
        for block in range(recipe.blocks)
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
    regions: Sequence[RegionViews],
    recipe: Recipe,
    trained: Trained,
    *,
    heatmaps: Sequence[CellModel] | None,
) -> nn.Module:
    """Train the refinement network.

    Parameters
    ----------
    regions
        Where to learn from.
    recipe, trained
        What to train, and what has been.
    heatmaps
        Per region, a model that has not seen it: the network learns how far to trust a heatmap
        of new tissue, not of tissue learned by heart. `None`: a network of the image alone.
    """
    stage = recipe.refine
    channels = (3,) if heatmaps is None else (3, 1)
    models = [None] * len(regions) if heatmaps is None else heatmaps
    views = [
        _refiner_views(region, model, recipe) for region, model in zip(regions, models, strict=True)
    ]
    torch.manual_seed(stage.fit.seed)
    network = build(
        "wsiseg.h2g_unet", channels=channels, classes=CLASSES, arguments=stage.arguments
    )
    sampler = PatchSampler(views, patch=stage.patch)
    key = f"refiner of {_names(views)} with inputs {channels}: {recipe.key(refine=True)}"
    trained.fit(key, network, lambda network: fit(network, sampler, segmentation_loss, stage.fit))
    return network.eval()


def cell_model(
    network: nn.Module, recipe: Recipe, *, within: tuple[slice, slice] | None = None
) -> CellModel:
    """Return what gives the tumour probability of the cells of an image at the first spacing."""
    patch, stride = recipe.patches.patch, recipe.patches.stride

    def cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict_cells(network, image, patch=patch, stride=stride, within=within)[..., 1:]

    return cells


def refine(
    network: nn.Module,
    image: NDArray[np.uint8],
    cells: NDArray[np.float32] | None,
    recipe: Recipe,
) -> NDArray[np.float32]:
    """Return the tumour probability (y, x) of an image at the refinement spacing."""
    stage = recipe.refine
    heatmap = None if cells is None else partial(_at_refinement, cells, recipe=recipe)
    whole = predict_pixels(network, image, heatmap, multiple=stage.multiple, halo=stage.halo)
    return whole[..., 1]


def _cell_blocks(shape: tuple[int, ...], recipe: Recipe) -> tuple[tuple[slice, slice], ...]:
    counts = tuple(ceil_div(n, recipe.patches.stride) for n in shape)
    return split_blocks(counts, recipe.blocks)


def _without_block(region: Region, recipe: Recipe, index: int | None) -> Region:
    if index is None:
        return region
    shape, stride = region.labels.shape, recipe.patches.stride
    rows, columns = (
        slice(cells.start * stride, cells.stop * stride)
        for cells in _cell_blocks(shape, recipe)[index]
    )
    return replace(region, allowed=keep_away(shape, (rows, columns), recipe.patches.patch))


def _refiner_views(region: RegionViews, model: CellModel | None, recipe: Recipe) -> list[Region]:
    """Return the region at each scale, every other time with the heatmap of a recoloured image."""
    views = []
    rng = np.random.default_rng(recipe.refine.fit.seed)
    for index, scale in enumerate(recipe.scales):
        coarse = region(recipe.refine.spacing_um * scale)
        if model is None:
            views.append(coarse)
            continue
        image = region(recipe.patches.spacing_um * scale).image
        if index % 2:
            image = jitter_colour(image[None], rng, recipe.refine.fit.augment)[0]
        box = Box.of_shape(coarse.labels.shape)
        heatmap = _at_refinement(model(image), box, recipe=recipe)
        views.append(replace(coarse, heatmap=heatmap))
    return views


def _at_refinement(cells: NDArray[np.float32], box: Box, *, recipe: Recipe) -> NDArray[np.float32]:
    cell_um = recipe.patches.spacing_um * recipe.patches.stride
    return resample_cells(cells, box, recipe.refine.spacing_um / cell_um)


def _names(views: Sequence[Sequence[Region]]) -> str:
    return ", ".join(sorted(same[0].name for same in views))
