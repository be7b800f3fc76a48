"""How large a pixel is: what a caller says, and what of a file's claims is believed.

Only statements made for microscopy are believed without question: Aperio's `MPP`, OME's physical
sizes, OpenSlide's `mpp-x` and `mpp-y`. TIFF resolution tags also hold printing resolutions (72, 96,
300 dpi) that programs write by default; they count only where they give `PLAUSIBLE_TAG_UM`.
The objective power is a label and never becomes a pixel size.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from wsiseg.errors import MissingSpacingError
from wsiseg.geometry import COARSEST_UM, FINEST_UM, Spacing

__all__ = [
    "declared_spacing",
    "missing_spacing",
    "parse_mpp",
    "plausible_tag_spacing",
    "positive",
    "tag_spacing",
]

PLAUSIBLE_TAG_UM = (0.05, 5.0)
"""Level-0 µm per pixel for which a TIFF resolution tag is believed. Immersion objectives sample
at 0.05 or above; 5 µm lies below the finest scan resolution in use, 4800 dpi (5.29 µm), and far
below print resolutions (1200 dpi is 21 µm, 300 dpi 85 µm, 72 dpi 353 µm)."""

TAG_UNIT_UM = {2: 25_400.0, 3: 10_000.0}
"""µm in TIFF's ResolutionUnit: 2 inch, 3 centimetre; 1 (none) says nothing about size."""


_DECLARING = (
    "aperio.MPP",
    "openslide.mpp-x",
    "openslide.mpp-y",
    "ome.PhysicalSizeX",
    "ome.PhysicalSizeY",
)
"""Properties in which a file states its pixel size."""


def parse_mpp(mpp: float | Sequence[float], name: str) -> Spacing:
    """Return the spacing a caller asks for: µm per pixel, one value or `(x, y)`.

    Parameters
    ----------
    mpp
        Numbers of Python or NumPy.
    name
        Of the slide, for the error.

    Raises
    ------
    MissingSpacingError
        If it is not one or two finite positive numbers of a possible size.
    """
    values = tuple(mpp) if np.iterable(mpp) else (mpp, mpp)
    if len(values) != 2 or not all(map(_is_possible, values)):
        raise MissingSpacingError(
            f"{name}: {mpp!r} is no possible pixel size: needed µm per pixel, one number or "
            f"(x, y), from {FINEST_UM} to {COARSEST_UM:.0f}; pass for example 0.25 (--mpp 0.25)",
            path=name,
        )
    x, y = map(float, values)
    return Spacing.from_mpp(x, y)


def _is_possible(um: Any) -> bool:  # noqa: ANN401 - whatever a caller gives
    is_number = isinstance(um, Real) and not isinstance(um, bool)
    return is_number and bool(FINEST_UM <= um <= COARSEST_UM)


def declared_spacing(mpp_x: str | float | None, mpp_y: str | float | None) -> Spacing | None:
    """Return what a file declares in µm per pixel, or `None` where it is missing or absurd."""
    try:
        x, y = (float(str(value).replace(",", ".")) for value in (mpp_x, mpp_y))
        return Spacing.from_mpp(x, y)
    except ValueError:  # not a number, or (MissingSpacingError) an absurd one
        return None


def tag_spacing(per_unit_x: float, per_unit_y: float, unit: int) -> Spacing | None:
    """Return the spacing of TIFF resolution tags (pixels per `unit`) where it is plausible."""
    if unit not in TAG_UNIT_UM or not (per_unit_x > 0 and per_unit_y > 0):
        return None
    unit_um = TAG_UNIT_UM[unit]
    return plausible_tag_spacing(declared_spacing(unit_um / per_unit_x, unit_um / per_unit_y))


def plausible_tag_spacing(spacing: Spacing | None) -> Spacing | None:
    """Return `spacing` if a microscope could have made it, otherwise `None`."""
    low, high = PLAUSIBLE_TAG_UM
    if spacing is None or not all(low <= um <= high for um in spacing.um):
        return None
    return spacing


def missing_spacing(name: str, properties: Mapping[str, str]) -> MissingSpacingError:
    """Return the error for a slide without a pixel size, with what it declares and the remedy."""
    declared = [f"{key} = {properties[key][:40]!r}" for key in _DECLARING if key in properties]
    found = f" (found {', '.join(declared)})" if declared else ""
    return MissingSpacingError(
        f"{name}: no usable pixel size in the file{found}; pass the µm per pixel of level 0, "
        "for example --mpp 0.25 (in Python: open(..., mpp=0.25))",
        path=name,
    )


def positive(text: str | None) -> float | None:
    """Return a finite positive number written in a file, otherwise `None`."""
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
