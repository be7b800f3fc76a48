"""How far augmentation goes."""

from dataclasses import dataclass, fields
from typing import Literal

from wsiseg.errors import TrainingError

__all__ = ["AugmentOptions", "Range", "require"]

Range = tuple[float, float]
"""Smallest and largest of what is drawn evenly."""

SHARES = (
    "orient", "affine", "pen", "dust", "bubble", "fold", "glass", "recolour", "macenko", "defocus",
    "jpeg",
)  # fmt: skip


def require(right: bool, name: str, needed: str, found: object) -> None:
    """Raise `TrainingError` unless an option of augmentation is right."""
    if not right:
        raise TrainingError(f"augmentation: {name}: needed {needed}, found {found!r}; correct it")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentOptions:
    """Chances per patch and strengths, lengths in µm; whatever is drawn is drawn evenly.

    Colour differs most between laboratories and scanners, so it is varied far beyond what one
    laboratory shows (Tellez et al. 2019, doi:10.1016/j.media.2019.101544).

    Raises
    ------
    TrainingError
        If a chance is not in 0..1, a strength is negative or a range runs backwards.
    """

    orient: float = 1.0
    """Chance of one of the eight orientations: quarter turns and mirror images."""

    affine: float = 0.25
    """Chance of a free rotation, scale, shear and shift together."""

    rotation_degrees: float = 20.0
    scale: float = 0.1
    """Size is multiplied by up to 1 + this, or divided by it."""

    shear_degrees: float = 5.0
    shift_um: float = 0.0

    pen: float = 0.03
    """Chance of a marker stroke."""

    pen_width_um: Range = (200.0, 1500.0)
    dust: float = 0.05
    dust_radius_um: Range = (3.0, 30.0)
    bubble: float = 0.02
    bubble_radius_um: Range = (50.0, 500.0)
    fold: float = 0.03
    fold_width_um: Range = (15.0, 80.0)

    artefact_label: Literal["ignore", "background", "keep"] = "ignore"
    """What is known about tissue under ink, dust, bubbles and in folds."""

    glass: float = 0.15
    """Chance that glass, which is background, replaces part of the tissue."""

    recolour: float = 1.0
    """Chance that stain and colour vary at all."""

    macenko: float = 0.5
    """Share of those whose stains are estimated from the patch; the others' are textbook stains."""

    stain: float = 0.35
    """Concentration of each stain is multiplied by 1 ± this; by half of it for estimated stains."""

    stain_shift: float = 0.05
    """Optical density added per stain, ± this."""

    stain_direction: float = 0.06
    """Standard deviation added to each component of the stain vectors."""

    hue_degrees: float = 15.0
    saturation: float = 0.3
    brightness: float = 0.2
    contrast: float = 0.2
    """± these, around 1."""

    gamma: float = 0.1
    """Exponent up to 1 + this, or 1 divided by it."""

    defocus: float = 0.5
    """Chance of blurring or sharpening."""

    blur_um: Range = (0.4, 1.2)
    """Standard deviation of the blur."""

    sharpen: float = 0.7
    """How much of the blur is at most subtracted instead."""

    noise: float = 4.0
    """Largest standard deviation of pixel noise, in grey values of 255."""

    jpeg: float = 0.1
    """Chance of another JPEG compression."""

    jpeg_quality: Range = (30.0, 95.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                right = value in ("ignore", "background", "keep")
                needed = "ignore, background or keep"
            elif isinstance(value, tuple):
                right, needed = len(value) == 2 and 0 < value[0] <= value[1], "0 < low <= high"
            elif field.name in SHARES:
                right, needed = 0 <= value <= 1, "a chance in 0..1"
            else:
                right, needed = value >= 0, "0 or more"
            require(right, field.name, needed, value)

    @classmethod
    def off(cls) -> "AugmentOptions":
        """Return options that change nothing."""
        return cls(**dict.fromkeys(SHARES, 0.0), noise=0.0)  # type: ignore[arg-type]
