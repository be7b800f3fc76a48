"""A scale bar of a round length."""

import math
from dataclasses import dataclass

import numpy as np

from wsiseg.draw.canvas import INK, PAPER, Pixels, checked, line_height, text_width, write_text
from wsiseg.errors import AnnotationError

__all__ = ["ScaleBar", "scale_bar"]


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """How long a bar is drawn, and what is written to it."""

    um: float
    pixels: int
    label: str

    @classmethod
    def fitting(cls, um_per_pixel: float, max_pixels: float) -> "ScaleBar":
        """Return the longest bar of 1, 2 or 5 times a power of ten that is not above `max_pixels`.

        Raises
        ------
        AnnotationError
            If the pixel size or the length is not positive.
        """
        longest = um_per_pixel * max_pixels
        if not (math.isfinite(longest) and longest > 0):
            raise AnnotationError(
                f"a scale bar needs a pixel size and a length above 0, got {um_per_pixel} µm and "
                f"{max_pixels} pixels"
            )
        power = 10.0 ** math.floor(math.log10(longest))
        # the tolerance keeps 5.000 from becoming 2 by rounding
        um = max(step * power for step in (0.5, 1, 2, 5) if step * power <= longest * (1 + 1e-9))
        return cls(um, max(1, round(um / um_per_pixel)), _length(um))


def scale_bar(pixels: Pixels, um_per_pixel: float) -> Pixels:
    """Return a copy with a scale bar in the lower right corner.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3).
    um_per_pixel
        Along x.

    Returns
    -------
    uint8 (h, w, 3)
        Bar and letters are dark with a light edge, or the other way round on dark ground. A
        picture too small to hold the letters is returned without a bar.

    Raises
    ------
    AnnotationError
        If these are not pixels, or the pixel size is not positive.
    """
    out = checked(pixels).copy()
    height, width = out.shape[:2]
    size = int(np.clip(min(height, width) / 30, 12, 28))
    margin, thick = size, max(3, size // 4)
    bar = ScaleBar.fitting(um_per_pixel, 0.25 * width)
    wide = max(bar.pixels, text_width(bar.label, size))
    if wide + 2 * margin > width or line_height(size) + thick + 2 * margin > height:
        return out
    centre, bottom = width - margin - wide / 2, height - margin
    left, top = round(centre - bar.pixels / 2), bottom - thick
    text_at = round(centre - text_width(bar.label, size) / 2)
    above = top - line_height(size) - thick // 2
    dark_ground = out[above:bottom, -wide - margin : -margin].mean() < 110
    ink, halo = (PAPER, INK) if dark_ground else (INK, PAPER)
    edge = max(1, thick // 3)
    out[top - edge : bottom + edge, left - edge : left + bar.pixels + edge] = halo
    out[top:bottom, left : left + bar.pixels] = ink
    write_text(out, bar.label, (above, text_at), size, color=ink, halo=halo)
    return out


def _length(um: float) -> str:
    """Return a length in the unit that gives a number from 1 to 999."""
    if um >= 10_000_000:
        return f"{um / 1_000_000:g} m"
    if um >= 1000:
        return f"{um / 1000:g} mm"
    return f"{um:g} µm" if um >= 1 else f"{um * 1000:g} nm"
