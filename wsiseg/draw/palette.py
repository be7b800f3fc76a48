"""Colours that people with any colour vision tell apart, and those that QuPath knows by name."""

from collections.abc import Mapping

__all__ = ["OKABE_ITO", "QUPATH_COLORS", "Color", "class_color"]

Color = tuple[int, int, int]

OKABE_ITO: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (86, 180, 233),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 0),
)
"""M. Okabe, K. Ito, Color Universal Design, 2008 (B. Wong, Nat. Methods 8:441, 2011,
doi:10.1038/nmeth.1618); ordered so that the first ones stand out from pink and purple stains."""

QUPATH_COLORS: Mapping[str, Color] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (250, 62, 62),
    "Negative": (112, 112, 225),
}
"""Classes QuPath starts with; their colors count, whatever a file says."""


def class_color(index: int) -> Color:
    """Return the colour of class `index` (0, 1, ...) where the class names none.

    After the eight of the palette it starts again, each round at two thirds of the brightness.
    """
    around, place = divmod(index, len(OKABE_ITO))
    red, green, blue = (round(value * (2 / 3) ** around) for value in OKABE_ITO[place])
    return red, green, blue
