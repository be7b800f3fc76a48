"""What the OME-XML of an OME-TIFF says about its images.

Reference: OME Data Model, schema 2016-06, https://docs.openmicroscopy.org/ome-model/
"""

from dataclasses import dataclass
from xml.etree import ElementTree

from wsiseg.geometry import Spacing
from wsiseg.source._spacing import declared_spacing, positive

__all__ = ["OmeImage", "ome_images"]

_UNIT_UM = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0,
    "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "in": 25_400.0, "thou": 25.4, "mil": 25.4,
}  # fmt: skip
"""µm per unit of length; `pixel` and `reference frame` are no lengths and left out. Both Unicode
characters for micro occur."""


@dataclass(frozen=True, slots=True)
class OmeImage:
    """One `Image` element."""

    name: str
    shape: tuple[int, int]
    """Pixels (y, x) at full resolution."""

    spacing: Spacing | None
    objective_power: float | None


def ome_images(xml: str) -> tuple[OmeImage, ...]:
    """Return the images an OME-XML document describes; none where it is not OME-XML."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ()
    powers = {
        objective.get("ID"): positive(objective.get("NominalMagnification"))
        for objective in root.iterfind(".//{*}Objective")
    }
    images = []
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        settings = image.find("{*}ObjectiveSettings")
        power = powers.get(settings.get("ID")) if settings is not None else None
        shape = int(pixels.get("SizeY", "0")), int(pixels.get("SizeX", "0"))
        images.append(OmeImage(image.get("Name", ""), shape, _spacing(pixels), power))
    return tuple(images)


def _spacing(pixels: ElementTree.Element) -> Spacing | None:
    """Return the physical size of a pixel; both axes and a unit of length are needed."""
    sizes = []
    for axis in "XY":
        size = positive(pixels.get(f"PhysicalSize{axis}"))
        unit_um = _UNIT_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip())
        if size is None or unit_um is None:
            return None
        sizes.append(size * unit_um)
    return declared_spacing(*sizes)
