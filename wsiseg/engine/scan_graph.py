"""The stage graph of a card laid over a scan: the same stages, grids and inputs as over a slide."""

from dataclasses import replace

from wsiseg.engine.graph import StageInput, StageSetup
from wsiseg.errors import ModelError, SpacingUnavailableError, UsageError
from wsiseg.geometry import Spacing
from wsiseg.grid import Grid, window_grid
from wsiseg.model.card import InputSpec, ModelCard, StageSpec
from wsiseg.volume.layout import InputGrid, input_grid
from wsiseg.volume.scan import Scan

__all__ = ["lay_out_scan"]


def lay_out_scan(card: ModelCard, scan: Scan) -> tuple[StageSetup, ...]:
    """Return the stages of `card` laid over the part of a scan that is looked at.

    Reads no voxels. Level-0 pixels are the voxels of the whole scan.

    Raises
    ------
    ModelError
        If the model is not one for scans.
    UsageError
        If the scan has other channels than the model reads.
    SpacingUnavailableError
        If the scan's size puts a whole view outside the range the card allows.
    """
    if card.scan is None:
        raise ModelError(
            f"{card.name}: a model of axes {card.axes!r} cannot read {scan.name}, which has 3 "
            "axes; choose a model for volumes"
        )
    names = card.scan_channels
    if len(names) != scan.channels:
        raise UsageError(
            f"{scan.name}: needed {len(names)} channels ({', '.join(names)}), found "
            f"{scan.channels}; give one scan for each, in this order"
        )
    setups = []
    for stage in card.stages:
        inputs = tuple(_lay_out_input(stage, spec, scan) for spec in stage.inputs)
        grid = _grid(stage, inputs[0].shape)
        setups.append(StageSetup(stage, inputs, grid, card.channel_names))
    setups[-1] = replace(setups[-1], scaling=card.calibration.scaling)
    return tuple(setups)


def _lay_out_input(stage: StageSpec, spec: InputSpec, scan: Scan) -> StageInput:
    wanted = Spacing(spec.spacing_um) if spec.spacing_um is not None else None
    sizes: tuple[int | None, ...] = (None, None, None)
    if stage.extent == "whole":
        sizes = spec.patch
    elif stage.extent == "slab":
        sizes = (None, *spec.patch[1:])
    layout = input_grid(scan.shape, scan.affine.spacing, wanted, spec.resample, sizes=sizes)
    _require_range(stage, spec, layout, scan)
    pairs = zip(scan.box.start, layout.origin, strict=True)
    return StageInput(
        spec=spec,
        shape=layout.shape,
        downsample=layout.downsample,
        spacing=layout.spacing,
        requested=wanted or layout.spacing,
        view=None,
        origin=tuple(start + shift for start, shift in pairs),
        layout=layout,
    )


def _require_range(stage: StageSpec, spec: InputSpec, layout: InputGrid, scan: Scan) -> None:
    if spec.spacing_range_um is None:
        return
    low, high = spec.spacing_range_um
    if any(not low <= um <= high for um in layout.spacing.um):
        found = " x ".join(f"{um / 1000:.3g}" for um in layout.spacing.um)
        raise SpacingUnavailableError(
            f"{scan.name}: stage {stage.name!r} sees all of it in "
            f"{' x '.join(map(str, spec.patch))} voxels: that is {found} mm here, the card allows "
            f"{low / 1000:g} to {high / 1000:g}; use a model for scans of this size"
        )


def _grid(stage: StageSpec, shape: tuple[int, ...]) -> Grid:
    first = stage.inputs[0]
    if stage.windows is not None:
        plan, overlap = stage.windows.plan, stage.windows.overlap
        return window_grid(shape, first.patch, plan=plan, overlap=overlap)
    return Grid.of_patches(shape, first.patch, stride=first.stride, halo=stage.output.halo)
