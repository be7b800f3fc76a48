"""Where the voxels of a network's input lie in a scan: sizes and conventions of the peers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wsiseg.geometry import Spacing
from wsiseg.model.scan_card import ResampleSpec
from wsiseg.resample import AxisMap

__all__ = ["InputGrid", "coarse_axis", "input_grid"]


@dataclass(frozen=True, slots=True)
class InputGrid:
    """The voxels of an input over the part of a scan that is looked at."""

    maps: tuple[AxisMap, ...]
    """Per axis, where they lie among those of the scan."""

    orders: tuple[int, ...]
    """Per axis, the spline that brings the scan there."""

    export_orders: tuple[Literal[0, 1], ...]
    """Per axis, the spline that brings outputs back."""

    separate: int | None
    """The axis that is resampled on its own, if one is."""

    spacing: Spacing
    """µm per voxel."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(one.target for one in self.maps)

    @property
    def downsample(self) -> tuple[float, ...]:
        """Voxels of the scan per voxel."""
        return tuple(one.step for one in self.maps)

    @property
    def origin(self) -> tuple[float, ...]:
        """Voxels of the part looked at before the first voxel's face."""
        return tuple(one.origin for one in self.maps)


def input_grid(
    shape: Sequence[int],
    spacing: Spacing,
    wanted: Spacing | None,
    spec: ResampleSpec | None,
    *,
    sizes: Sequence[int | None] = (None, None, None),
) -> InputGrid:
    """Return the voxels of an input.

    Parameters
    ----------
    shape, spacing
        Of the part of the scan that is looked at.
    wanted
        µm per voxel of the input; `None`: as stored.
    spec
        How it is resampled; `None`: linear, outer faces kept.
    sizes
        Given for an axis, so many voxels cover it whatever their size.
    """
    spec = spec or ResampleSpec()
    maps = []
    for axis, (size, fixed) in enumerate(zip(shape, sizes, strict=True)):
        if fixed is not None:
            maps.append(AxisMap.extent(size, fixed))
        elif wanted is None or axis in spec.keep:
            maps.append(AxisMap.extent(size, size))
        else:
            step = wanted.um[axis] / spacing.um[axis]
            maps.append(_along(size, step, spec.convention))
    new = Spacing(tuple(u * m.step for u, m in zip(spacing.um, maps, strict=True)))
    separate = None
    if spec.separate_z_over is not None:
        asked = wanted if wanted is not None and not spec.keep else new
        separate = coarse_axis(spacing.um, asked.um, spec.separate_z_over)
    orders = tuple(spec.order_z if axis == separate else spec.order for axis in range(3))
    # Outputs are brought back from the new spacing to the old one, so the rule looks at that first.
    back = None
    if spec.separate_z_over is not None:
        back = coarse_axis(new.um, spacing.um, spec.separate_z_over)
    export: tuple[Literal[0, 1], ...] = tuple(0 if axis == back else 1 for axis in range(3))
    return InputGrid(tuple(maps), orders, export, separate, new)


def _along(size: int, step: float, convention: Literal["extent", "centres"]) -> AxisMap:
    if convention == "extent":
        return AxisMap.extent(size, max(1, round(size / step)))
    return AxisMap.centres(size, max(1, round((size - 1) / step + 1)), step)


def coarse_axis(current: Sequence[float], new: Sequence[float], over: float) -> int | None:
    """Return the axis that nnU-Net resamples on its own, if there is one.

    Where the largest spacing is more than `over` times the smallest, before or else after, it is
    the axis of the largest; none if several share it.

    References
    ----------
    nnU-Net v2, `determine_do_sep_z_and_axis`.
    """
    for spacing in (current, new):
        if max(spacing) / min(spacing) > over:
            axes = [axis for axis, value in enumerate(spacing) if value == max(spacing)]
            return axes[0] if len(axes) == 1 else None
    return None
