"""The stage graph of a card laid over one slide: which grid, which pixels, which output."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.uncertainty import StageLayers
from wsiseg.errors import ModelError, SpacingUnavailableError
from wsiseg.geometry import Box, Spacing
from wsiseg.grid import Column, Grid, cut_columns
from wsiseg.model.activation import IDENTITY, Scaling
from wsiseg.model.card import InputSpec, ModelCard, StageSpec
from wsiseg.model.enlarge import widened
from wsiseg.options import UncertaintyOptions
from wsiseg.resample import target_shape
from wsiseg.source import Pyramid, View
from wsiseg.stitch import Placement
from wsiseg.tissue import TissueMask
from wsiseg.volume.layout import InputGrid

__all__ = ["StageInput", "StageSetup", "kept_channels", "lay_out", "select_tiles"]

CERTAIN = UncertaintyOptions()
PROBABILITIES_ONLY = StageLayers()


@dataclass(frozen=True, slots=True)
class StageInput:
    """One input of a stage, on its own grid of pixels over the slide."""

    spec: InputSpec
    shape: tuple[int, ...]
    downsample: tuple[float, ...]
    """Level-0 pixels per input pixel, per axis."""

    spacing: Spacing
    """Effective µm per pixel; what was asked for is in `requested`."""

    requested: Spacing
    view: View | None
    """The slide at that spacing; `None` for the output of an earlier stage, and for scans."""

    origin: tuple[float, ...] = ()
    """Level-0 pixels before the first pixel's corner; default: none. Scans: see `layout`."""

    layout: InputGrid | None = None
    """How a scan is brought to this grid."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: uint8 of the slide, float32 of a heatmap."""
        return np.dtype(np.uint8 if self.view is not None else np.float32)

    def batch_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of a batch of patches, `(size, *patch, channel)`."""
        return (size, *self.spec.patch, len(self.spec.channels))

    @property
    def bytes_per_pixel(self) -> int:
        """Of what is read, all channels."""
        return len(self.spec.channels) * self.dtype.itemsize

    def box_of(self, read: Box, reference: "StageInput") -> Box:
        """Return this input's patch whose centre is that of `read`, a box of the reference."""
        if self.downsample == reference.downsample and self.spec.patch == read.shape:
            return read
        start, shifts = [], self._shifts_from(reference)
        for axis, size in enumerate(self.spec.patch):
            centre = (read.start[axis] + read.stop[axis]) / 2 * reference.downsample[axis]
            centre += shifts[axis]
            start.append(round(centre / self.downsample[axis] - size / 2))
        return Box(tuple(start), tuple(a + n for a, n in zip(start, self.spec.patch, strict=True)))

    def _shifts_from(self, reference: "StageInput") -> tuple[float, ...]:
        """Return the level-0 pixels from this origin to that of another input."""
        if self.origin == reference.origin:
            return (0.0,) * len(self.shape)
        return tuple(b - a for a, b in zip(self.origin, reference.origin, strict=True))


@dataclass(frozen=True, slots=True)
class StageSetup:
    """A stage of the card with its place on the slide. The first input is the reference."""

    spec: StageSpec
    inputs: tuple[StageInput, ...]
    grid: Grid
    """Over the pixels of the reference input."""

    channels: tuple[str, ...]
    """Names of the output's channels: the classes."""

    scaling: Scaling = IDENTITY
    """What is done to raw values before the activation; see `Calibration`."""

    layers: StageLayers = PROBABILITIES_ONLY
    """What comes beside the probabilities."""

    patches: Grid | None = None
    """The grid of the card's patches, where `grid` is that of larger windows."""

    @property
    def predicted(self) -> int:
        """Channels that the network gives: the classes, and offsets."""
        return self.spec.values(len(self.channels))

    @property
    def planes(self) -> int:
        """Channels that are stitched: those predicted, and the variances of layers."""
        return self.predicted + self.layers.extra_planes

    @property
    def reference(self) -> StageInput:
        """The input whose pixels the grid counts."""
        return self.inputs[0]

    @property
    def decided(self) -> Grid:
        """The grid whose tiles are selected and decided, or not: that of the card's patches."""
        return self.patches or self.grid

    def in_windows(self, patch: tuple[int, ...]) -> "StageSetup":
        """Return the stage on windows of `patch` pixels, each of whole steps of the card's patch.

        The same tiles of `decided` are decided, and all others left as nodata.
        """
        decided = self.decided
        if patch == decided.patch:
            return replace(self, inputs=self._inputs_of(patch), grid=decided, patches=None)
        grid = Grid.of_patches(decided.shape, patch, halo=decided.halo)
        return replace(self, inputs=self._inputs_of(patch), grid=grid, patches=decided)

    def runs(self, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which tiles of `grid` run, given those of `decided` that are selected."""
        if self.patches is None:
            return selected
        pairs = zip(self.grid.stride, self.patches.stride, strict=True)
        steps = tuple(wide // own for wide, own in pairs)
        places = np.argwhere(selected) // steps
        found = np.zeros(self.grid.counts, np.bool_)
        found[tuple(places.T)] = True
        return found

    def undecided(
        self, box: Box, selected: NDArray[np.bool_], *, turned: bool = False
    ) -> NDArray[np.bool_]:
        """Return the pixels of a box of the walk that no selected tile decides, bool `box.shape`.

        Parameters
        ----------
        box
            Within the image, in the frame of the walk; see `Column`.
        selected
            Tiles of `decided` that are selected.
        turned
            The axes of that frame are the image's in reverse order.
        """
        grid = self.decided.turned if turned else self.decided
        chosen = selected.T if turned else selected
        spans = zip(box.start, box.stop, grid.stride, strict=True)
        tiles = np.ix_(*(np.arange(a, b) // stride for a, b, stride in spans))
        undecided: NDArray[np.bool_] = ~chosen[tiles]
        return undecided

    def _inputs_of(self, patch: tuple[int, ...]) -> tuple[StageInput, ...]:
        if patch == self.reference.spec.patch:
            return self.inputs
        specs = widened(self.spec, patch).inputs
        pairs = zip(self.inputs, specs, strict=True)
        return tuple(replace(item, spec=spec) for item, spec in pairs)

    def columns(self, width: int, *, turned: bool = False, beyond: int = 0) -> tuple[Column, ...]:
        """Return the grid cut into columns of `width` reference pixels, or turned into rows."""
        cells = self.spec.kind != "segmenter"
        return tuple(cut_columns(self.grid, width, cells=cells, turned=turned, beyond=beyond))

    @property
    def placement(self) -> Placement:
        """Where the output lies: a pixel per reference pixel of a segmenter, else per tile."""
        first = self.reference
        dense = Placement(self.grid.shape, first.spacing, first.downsample, first.origin)
        return dense if self.spec.kind == "segmenter" else dense.cells(self.grid)


def lay_out(
    card: ModelCard,
    pyramid: Pyramid,
    *,
    scaled: bool = False,
    uncertainty: UncertaintyOptions = CERTAIN,
) -> tuple[StageSetup, ...]:
    """Return the stages of `card` laid over the slide; reads no pixels.

    Parameters
    ----------
    card
        Of the model.
    pyramid
        The slide.
    scaled
        Let codecs reduce while they decode, for stages that read nothing but the slide.
    uncertainty
        What the last stage gives beside probabilities.

    Raises
    ------
    MissingSpacingError
        If the slide does not know its pixel size.
    ModelError
        If the model is not one for slides.
    SpacingUnavailableError
        If a stage wants finer pixels than the slide has, or the slide's size puts a whole view
        outside the range the card allows.
    UsageError
        If the model cannot give such a layer of uncertainty.
    """
    if len(card.axes) != len(pyramid.shape):
        raise ModelError(
            f"{card.name}: a model of axes {card.axes!r} cannot read {pyramid.name}, which has "
            f"{len(pyramid.shape)} axes; choose a model for slides"
        )
    names = tuple(spec.name for spec in card.classes)
    setups = [_lay_out_stage(stage, pyramid, names, scaled) for stage in card.stages]
    layers = StageLayers.of(card, uncertainty)
    setups[-1] = replace(setups[-1], scaling=card.calibration.scaling, layers=layers)
    return tuple(setups)


def _lay_out_stage(
    stage: StageSpec, pyramid: Pyramid, classes: tuple[str, ...], scaled: bool
) -> StageSetup:
    scaled = scaled and all(spec.source == "slide" for spec in stage.inputs)
    inputs = tuple(_lay_out_input(stage, spec, pyramid, scaled) for spec in stage.inputs)
    shape, patch = inputs[0].shape, inputs[0].spec.patch
    if stage.extent == "whole":
        grid = Grid.of_patches(shape, patch)
    elif stage.kind == "classifier":
        stride = inputs[0].spec.stride or patch
        spare = [p - s for p, s in zip(patch, stride, strict=True)]
        halo = tuple(n // 2 for n in spare)
        grid = Grid(shape, stride, halo, overlap=tuple(n % 2 for n in spare))
    else:
        grid = Grid.of_patches(shape, patch, stride=inputs[0].spec.stride, halo=stage.output.halo)
    return StageSetup(spec=stage, inputs=inputs, grid=grid, channels=classes)


def _lay_out_input(stage: StageSpec, spec: InputSpec, pyramid: Pyramid, scaled: bool) -> StageInput:
    if stage.extent == "whole":
        wanted = _whole_spacing(stage, spec, pyramid)
    else:
        if spec.spacing_um is None:
            raise ModelError(f"stage {stage.name!r}: extent 'window' needs spacing_um in the card")
        wanted = Spacing(spec.spacing_um)
    if spec.source == "slide":
        exact = stage.extent == "whole"
        view = View(pyramid, wanted, spec.spacing_tolerance, exact=exact, scaled=scaled)
        return StageInput(spec, view.shape, view.downsample, view.spacing, wanted, view)
    # A heatmap has no pixels of its own to respect: it is read where the slide's would be.
    view = View(pyramid, wanted, spec.spacing_tolerance, exact=stage.extent == "whole")
    shape = target_shape(pyramid.shape, view.downsample)
    return StageInput(spec, shape, view.downsample, view.spacing, wanted, None)


def _whole_spacing(stage: StageSpec, spec: InputSpec, pyramid: Pyramid) -> Spacing:
    """Return the spacing at which the whole slide just fits in the patch."""
    extent = zip(pyramid.shape, pyramid.spacing.um, spec.patch, strict=True)
    each = tuple(n * size / p for n, size, p in extent)
    if stage.fit == "letterbox":  # the aspect is kept
        each = (max(each),) * len(each)
    low, high = spec.spacing_range_um or (0.0, float("inf"))
    if not (low <= min(each) and max(each) <= high):
        raise SpacingUnavailableError(
            f"{pyramid.name}: stage {stage.name!r} sees the whole slide in "
            f"{' x '.join(map(str, spec.patch))} pixels: that is "
            f"{' x '.join(f'{um:.3g}' for um in dict.fromkeys(each))} µm per pixel here, the "
            f"card allows {low:g} to {high:g}; use a model for slides of this size"
        )
    return Spacing(each)


def select_tiles(setup: StageSetup, tissue: TissueMask, min_fraction: float) -> NDArray[np.bool_]:
    """Return which tiles of a stage have enough tissue, bool of `decided.counts`.

    A tile of a dense stage decides many pixels, so any tissue in it counts; a view of the whole
    slide is always looked at.
    """
    if setup.spec.extent == "whole":
        return np.ones(setup.decided.counts, np.bool_)
    least = 0.0 if setup.spec.kind == "segmenter" else min_fraction
    return tissue.select(setup.decided, setup.reference.downsample, least)


def kept_channels(card: ModelCard, setup: StageSetup) -> list[int]:
    """Return the classes worth keeping: all but the background, unless a later stage reads it."""
    output = setup.spec.output.name
    wanted = {
        channel
        for stage in card.stages
        for spec in stage.inputs
        if spec.source == output
        for channel in spec.channels
    }
    return [i for i, name in enumerate(setup.channels) if i > 0 or name in wanted]
