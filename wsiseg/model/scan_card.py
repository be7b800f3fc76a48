"""What cards of volumes say beyond those of slides: orientation, crop, intensities, windows."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, model_validator

__all__ = [
    "ClipStep",
    "CropSpec",
    "N4Step",
    "PercentileClipStep",
    "PercentileWindowStep",
    "Region",
    "RegionSpec",
    "ResampleSpec",
    "RescaleStep",
    "ScanSpec",
    "WindowSpec",
    "WindowStep",
    "WithinSpec",
    "ZscoreStep",
]

AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}

Region = Literal["all", "nonzero", "mask"]
"""Voxels a step measures and changes: all; those that are not 0; or those where any channel is not
0, and the holes in them (nnU-Net). The others stay 0."""

Order = Literal[0, 1, 3]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, lt=1)]
Axis = Annotated[int, Field(ge=0, le=2)]


class ScanPart(BaseModel):
    """A part of the card; a misspelled key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _ascending(low: float, high: float, what: str) -> None:
    if not low < high:
        raise ValueError(f"{what} needs its first value below the second, found {low} and {high}")


class ClipStep(ScanPart):
    """Set what is below or above to the limits (CT: HU)."""

    name: Literal["clip"]
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(self.low, self.high, "clip")
        return self


class WindowStep(ScanPart):
    """Map `low` to `to[0]` and `high` to `to[1]`, linearly."""

    name: Literal["window"]
    low: FiniteFloat
    high: FiniteFloat
    to: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    clip: bool = True
    """Whether what lies outside becomes the nearer limit."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(self.low, self.high, "window")
        return self


class PercentileClipStep(ScanPart):
    """Clip to two percentiles of the scan's own values."""

    name: Literal["percentile_clip"]
    low: Percent = 0.5
    high: Percent = 99.5
    region: Region = "all"

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(self.low, self.high, "percentile_clip")
        return self


class PercentileWindowStep(ScanPart):
    """Map two percentiles of the scan's own values to `to`, linearly."""

    name: Literal["percentile_window"]
    low: Percent = 0.5
    high: Percent = 99.5
    to: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    clip: bool = True
    region: Region = "all"

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(self.low, self.high, "percentile_window")
        return self


class ZscoreStep(ScanPart):
    """Subtract the scan's own mean and divide by its standard deviation."""

    name: Literal["zscore"]
    region: Region = "all"


class RescaleStep(ScanPart):
    """Map the scan's own smallest and largest value to `to`."""

    name: Literal["rescale"]
    to: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)


class N4Step(ScanPart):
    """Correct the bias field of MR (N4, Tustison et al. 2010); needs SimpleITK, comes first."""

    name: Literal["n4"]


class CropSpec(ScanPart):
    """The box of the scan that is looked at; the rest is background."""

    to: Literal["nonzero", "body", "above"]
    """`nonzero`: where any channel is not 0. `body`: the largest piece of the first channel above
    `threshold`. `above`: where any channel is above `threshold` (MONAI's `CropForeground`)."""

    threshold: FiniteFloat = -300.0
    """As stored (CT: HU); for `body` and `above`."""

    threshold_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For `above`, instead of `threshold`: of the range of all values (Raidionics: 0.2)."""

    margin_mm: Annotated[float, Field(ge=0)] = 0.0
    skip_windows: bool = False
    """Of `body`: leave out windows that hold nothing of it; they are background."""


class ScanSpec(ScanPart):
    """How a scan is laid before the networks; needed by axes `zyx`."""

    orientation: Annotated[str, Field(pattern=r"^(stored|[RLAPSI]{3})$")] = "RAS"
    """Directions in which x, y and z grow, such as `RAS`; `stored`: as the file has them."""

    transpose: tuple[Axis, Axis, Axis] = (0, 1, 2)
    """Axis `i` of the network is axis `transpose[i]` of the oriented array (z, y, x). All sizes of
    the card are in the order of the network's axes."""

    crop: CropSpec | None = None
    order: Literal["normalize_first", "resample_first"] = "resample_first"
    """Whether intensities are normalised before or after resampling."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        letters = self.orientation
        if letters != "stored" and len({AXES[c] for c in letters}) < 3:
            raise ValueError(f"orientation {letters!r} names an axis twice; needed such as 'RAS'")
        if sorted(self.transpose) != [0, 1, 2]:
            raise ValueError(f"transpose {self.transpose} is no order of the axes 0, 1, 2")
        return self


class ResampleSpec(ScanPart):
    """How a scan is brought to the spacing of an input, and outputs back."""

    order: Order = 1
    """Of the spline: 0 nearest, 1 linear, 3 cubic."""

    convention: Literal["extent", "centres"] = "extent"
    """`extent`: the outer faces stay, size = round(n * old / new) (nnU-Net). `centres`: the centre
    of the first voxel stays, size = round((n - 1) * old / new + 1) (MONAI's `Spacing`)."""

    separate_z_over: PositiveFloat | None = None
    """Where one axis is coarser than the others by more than this factor, before or after, it is
    resampled on its own with `order_z` (nnU-Net: 3)."""

    order_z: Order = 0
    keep: tuple[Axis, ...] = ()
    """Axes that stay as they are stored, whatever `spacing_um` says (nnU-Net's `2d`)."""


class WindowSpec(ScanPart):
    """Where windows lie, as a peer lays them."""

    plan: Literal["monai", "nnunet"]
    overlap: Share | tuple[Share, Share, Share] = 0.5
    """Of a window; nnU-Net: 1 - tile_step_size."""


class WithinSpec(ScanPart):
    """The last stage looks only around what the stage before it found."""

    classes: tuple[str, ...] = ()
    """What is looked for; none named: all but the background."""

    margin_mm: Annotated[float, Field(ge=0)] = 20.0
    grow: Annotated[int, Field(ge=0, le=20)] = 3
    """How often the box may grow by the margin, on sides where what is found reaches it."""


class RegionSpec(ScanPart):
    """A channel of a network whose channels overlap: where it is likely, pixels get a class."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of the class; later regions overwrite earlier ones."""
