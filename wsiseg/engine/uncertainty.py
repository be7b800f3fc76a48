"""Which layers of uncertainty a model can give, and where they are written."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.errors import UsageError
from wsiseg.geometry import Box
from wsiseg.model import Model, ModelCard, card_of
from wsiseg.model.dropout import require_dropout
from wsiseg.options import UncertaintyLayer, UncertaintyOptions
from wsiseg.stitch import (
    ChunkRows,
    HeatmapStore,
    LayerCodes,
    LayerMean,
    NeighbourSpread,
    Reducer,
    Sink,
    Values,
    deviation,
    entropy,
    seen_by_neighbours,
)

if TYPE_CHECKING:
    from wsiseg.engine.graph import StageSetup
    from wsiseg.engine.kept import KeptRows

__all__ = [
    "StageLayers",
    "begin_layers",
    "layer_path",
    "neighbour_layer",
    "require_layers",
    "stitched_layers",
]

QUARTER_TURNS = 8
"""Views with turns by 90 degrees among them."""

SPREAD_CELLS = 1 << 17
"""Cells whose neighbours are compared at once: some MB of sums."""

MEANING: Mapping[UncertaintyLayer, str] = {
    "entropy": "normalised Shannon entropy of the class probabilities",
    "overlap": "standard deviation over the patches that see the same place",
    "tta": "standard deviation over turned and mirrored patches",
    "dropout": "standard deviation over samples of the units dropped",
}


@dataclass(frozen=True, slots=True)
class StageLayers:
    """What a stage gives beside probabilities. Only the last of a model gives anything."""

    names: tuple[UncertaintyLayer, ...] = ()
    shares: tuple[float, ...] = ()
    """What the variance of each class counts in that of a pixel. Half, where classes exclude each
    other: of two classes the sum then is the variance of either. Else all but the background
    count alike."""

    exclusive: bool = True
    dense: bool = True
    """A value per pixel, not per patch."""

    views: int = 1
    samples: int = 0
    seed: int = 0

    @classmethod
    def of(cls, card: ModelCard, options: UncertaintyOptions) -> "StageLayers":
        """Return the layers of a model's last stage.

        Raises
        ------
        UsageError
            If the model has no such layer: says why, and what would do.
        """
        if not options.layers:
            return cls()
        stage, classes = card.stages[-1], len(card.classes)
        if stage.output.offsets and (varying := set(options.layers) - {"entropy"}):
            raise UsageError(
                f"{card.name}: layers {sorted(varying)} are not made of a model with offsets; "
                "needed 'entropy' or none"
            )
        if "overlap" in options.layers:
            _require_overlap(card)
        if "tta" in options.layers and options.tta_views == QUARTER_TURNS:
            _require_squares(card)
        exclusive = stage.output.activation != "sigmoid"
        alone = (0.0, *(1 / (classes - 1) for _ in range(classes - 1)))
        return cls(
            names=options.layers,
            shares=(0.5,) * classes if exclusive else alone,
            exclusive=exclusive,
            dense=stage.kind == "segmenter",
            views=options.tta_views if "tta" in options.layers else 1,
            samples=options.dropout_samples if "dropout" in options.layers else 0,
            seed=options.seed,
        )

    @property
    def sampled(self) -> tuple[UncertaintyLayer, ...]:
        """Layers whose variance comes with the values of a batch, in the order of its channels."""
        return tuple(name for name in self.names if name in ("tta", "dropout"))

    @property
    def passes(self) -> int:
        """How often each batch is predicted."""
        return self.views + self.samples

    @property
    def blended_shares(self) -> tuple[float, ...] | None:
        """Shares of the channels for the stitcher; `None` where it has no spread to look at."""
        if "overlap" not in self.names or not self.dense:
            return None
        return (*self.shares, *(0.0 for _ in self.sampled))

    @property
    def extra_planes(self) -> int:
        """Channels that come after those of the classes."""
        return len(self.sampled) + (self.blended_shares is not None)


def require_layers(model: Model | str | Path, options: UncertaintyOptions) -> None:
    """Refuse layers that a model cannot give, before anything is read.

    Raises
    ------
    UsageError
        If a layer makes no sense for its last stage.
    ModelError
        If there is no such model.
    """
    if not options.layers:
        return
    StageLayers.of(card_of(model), options)
    if "dropout" in options.layers:
        require_dropout(model)


def _require_overlap(card: ModelCard) -> None:
    stage = card.stages[-1]
    patch = stage.inputs[0].patch
    halo = stage.output.halo or (0,) * len(patch)
    inner = tuple(p - 2 * h for p, h in zip(patch, halo, strict=True))
    stride = stage.inputs[0].stride or inner
    if stride == inner or stage.extent == "whole":
        size = "x".join(map(str, inner))
        raise UsageError(
            f"{card.name}: layer 'overlap' needs patches that overlap, found none in stage "
            f"{stage.name!r}: its windows of {size} pixels lie side by side; leave 'overlap' out, "
            "or take a model with a stride below that (and blend 'gaussian', if it is dense)"
        )


def _require_squares(card: ModelCard) -> None:
    stage = card.stages[-1]
    for spec in stage.inputs:
        if len(set(spec.patch[-2:])) > 1 or len(set((spec.spacing_um or (1.0,))[-2:])) > 1:
            raise UsageError(
                f"{card.name}: 8 views need square patches of square pixels, found patch "
                f"{spec.patch} at {spec.spacing_um} µm in stage {stage.name!r}; take 4 views, "
                "which have no quarter turns: --tta-views 4"
            )


def layer_path(folder: Path, name: str) -> Path:
    """Return where a layer is written."""
    return folder / f"uncertainty-{name}.zarr"


def stitched_layers(setup: "StageSetup") -> tuple[UncertaintyLayer, ...]:
    """Return the layers that are made while the stage is stitched, not from its heatmap."""
    dense = setup.layers.blended_shares is not None
    return tuple(name for name in setup.layers.names if name != "overlap" or dense)


def begin_layers(
    setup: "StageSetup",
    folder: Path,
    stack: ExitStack,
    *,
    turned: bool,
    kept: "KeptRows | None" = None,
) -> tuple[list[Reducer], dict[str, LayerMean]]:
    """Begin the layers that are made while the stage is stitched; `stack` ends them.

    Parameters
    ----------
    setup, folder, stack
        The stage, where layers are written, and what ends them.
    turned
        The walk is from left to right.
    kept
        Rows that are finished already; stores are then replaced.

    Returns
    -------
    reducers, means
        In the order of the layers; the means are known when the reducers are finished.
    """
    layers, classes = setup.layers, len(setup.channels)
    variances = [*layers.sampled, *(["overlap"] if layers.blended_shares else [])]
    reducers: list[Reducer] = []
    means: dict[str, LayerMean] = {}
    measure: Callable[[Values], Values]
    for name in stitched_layers(setup):
        if name == "entropy":
            channels = slice(classes)
            measure = partial(entropy, exclusive=layers.exclusive)
        else:
            place = classes + variances.index(name)
            channels, measure = slice(place, place + 1), deviation
        store = _create(setup, folder, name, stack, turned=turned, again=kept is not None)
        means[name] = LayerMean(store)
        sink = means[name] if kept is None else kept.sink(name, means[name])
        reducers.append(LayerCodes(sink, channels, measure))
    return reducers, means


def neighbour_layer(
    setup: "StageSetup", heatmap: HeatmapStore, folder: Path, *, again: bool = False
) -> dict[str, LayerMean]:
    """Write the overlap of a classifier's patches from the heatmap it wrote, if asked for.

    Parameters
    ----------
    setup, heatmap, folder
        The stage, its heatmap, and where the layer is written.
    again
        A layer that is there is replaced.
    """
    layers = setup.layers
    if "overlap" not in layers.names or layers.dense:
        return {}
    grid = setup.grid
    shares = [layers.shares[setup.channels.index(name)] for name in heatmap.channels]
    has_rest = setup.channels[0] not in heatmap.channels
    spread = NeighbourSpread(
        seen_by_neighbours(grid.patch, grid.stride),
        shares,
        rest_share=layers.shares[0] if has_rest else 0.0,
    )
    with ExitStack() as stack:
        sink = _create(setup, folder, "overlap", stack, turned=False, again=again)
        mean, top = LayerMean(sink), 0
        height, width = heatmap.shape
        codes, depth = ChunkRows(heatmap.codes), max(1, SPREAD_CELLS // width)
        for rows in spread.rows(codes[row : row + depth] for row in range(0, height, depth)):
            mean.write(Box((top, 0), (top + len(rows), width)), rows)
            top += len(rows)
        mean.finish()
    return {"overlap": mean}


def _create(
    setup: "StageSetup",
    folder: Path,
    name: UncertaintyLayer,
    stack: ExitStack,
    *,
    turned: bool,
    again: bool,
) -> Sink:
    layers = setup.layers
    attributes: dict[str, Any] = {"layer": name, "meaning": MEANING[name]}
    if name == "tta":
        attributes["views"] = layers.views
    if name == "dropout":
        attributes |= {"samples": layers.samples, "seed": layers.seed}
    return stack.enter_context(
        HeatmapStore.create(
            layer_path(folder, name),
            setup.placement,
            channels=[name],
            attributes=attributes,
            overwrite=again,
            turned=turned,
        )
    )
