"""OME-NGFF image metadata, versions 0.4 and 0.5, as far as a slide needs it.

References
----------
Moore J et al., OME-Zarr: a cloud-optimized bioimaging file format with international community
support, 2023, doi:10.1007/s00418-023-02209-1; specification: https://ngff.openmicroscopy.org/0.5
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsiseg.errors import MissingSpacingError, UnsupportedFormatError
from wsiseg.geometry import Spacing

__all__ = ["Multiscale", "read_multiscale"]

VERSIONS = (None, "0.4", "0.5")
"""`None`: some writers leave the version out; the metadata is then held to the same rules."""

UNIT_UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "\N{MICRO SIGN}m": 1.0,
    "\N{GREEK SMALL LETTER MU}m": 1.0,
    "millimeter": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "cm": 1e4,
    "meter": 1e6,
    "inch": 25_400.0,
}
"""µm in a unit: the specification's names, and the symbols that programs write instead."""


class _Part(BaseModel):
    """A part of the metadata; what it says beyond the fields here does not matter to a slide."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Orientation(_Part):
    type: str = ""
    value: str = ""


class _Axis(_Part):
    name: str
    unit: str | None = None
    orientation: _Orientation | None = None
    """Where the axis grows to in the patient, such as `left-to-right` (RFC-4)."""


class _Transformation(_Part):
    type: str
    scale: tuple[float, ...] | None = None
    translation: tuple[float, ...] | None = None


_Transformations = Annotated[
    tuple[_Transformation, ...], Field(default=(), alias="coordinateTransformations")
]


class _Dataset(_Part):
    path: str
    transformations: _Transformations


class Multiscale(_Part):
    """One image at several resolutions."""

    version: str | None = None
    axes: tuple[_Axis, ...] = Field(min_length=2, max_length=5)
    datasets: tuple[_Dataset, ...] = Field(min_length=1, max_length=64)
    transformations: _Transformations

    @property
    def axis_names(self) -> str:
        """Names of the axes in array order, such as `tczyx`."""
        return "".join(axis.name for axis in self.axes)

    def spacing(self, dataset: int) -> Spacing | None:
        """Return µm per pixel (y, x) of a dataset, or `None` where unit or scale are missing."""
        factors = [*self.datasets[dataset].transformations, *self.transformations]
        scales = [t.scale for t in factors if t.type == "scale" and t.scale is not None]
        if not scales or any(len(scale) != len(self.axes) for scale in scales):
            return None
        um = []
        for name in "yx":
            axis = self.axis_names.index(name)
            unit = UNIT_UM.get((self.axes[axis].unit or "").lower())
            if unit is None:
                return None
            um.append(unit * math.prod(scale[axis] for scale in scales))
        try:
            return Spacing(tuple(um))
        except MissingSpacingError:  # absurd, such as 0
            return None

    def place_mm(self, dataset: int) -> dict[str, tuple[float, float]] | None:
        """Return step and centre of the first voxel in mm along z, y, x; `None` if not stated."""
        steps = dict.fromkeys("zyx", 1.0)
        starts = dict.fromkeys("zyx", 0.0)
        is_scaled = False
        for part in (*self.datasets[dataset].transformations, *self.transformations):
            values = part.scale if part.type == "scale" else part.translation
            if values is None or len(values) != len(self.axes):
                return None
            for name in "zyx":
                value = values[self.axis_names.index(name)]
                if part.type == "scale":
                    steps[name] *= value
                    starts[name] *= value
                    is_scaled = True
                else:
                    starts[name] += value
        units = {axis.name: UNIT_UM.get((axis.unit or "").lower()) for axis in self.axes}
        found = {}
        for name in "zyx":
            unit = units[name]
            if unit is None or not is_scaled:
                return None
            found[name] = (steps[name] * unit / 1000, starts[name] * unit / 1000)
        return found

    @property
    def growth(self) -> dict[str, str]:
        """Where axes grow to in the patient, such as `{"x": "R"}`, of those that say so."""
        ends = {"right": "R", "left": "L", "anterior": "A", "posterior": "P", "superior": "S",
                "inferior": "I"}  # fmt: skip
        stated = {axis.name: axis.orientation for axis in self.axes if axis.orientation}
        return {
            name: ends[to]
            for name, orientation in stated.items()
            if (to := orientation.value.rpartition("-")[2]) in ends
        }


def read_multiscale(attributes: Mapping[str, Any], name: str) -> Multiscale | None:
    """Return the image that a group's attributes describe, or `None` if they describe none.

    Parameters
    ----------
    attributes
        Of the group; version 0.5 keeps everything under `ome`, 0.4 does not.
    name
        Of the slide, for messages.

    Raises
    ------
    UnsupportedFormatError
        If the version is another one, or the metadata breaks the specification.
    """
    multiscales = attributes.get("multiscales")
    if not multiscales:
        return None
    try:
        multiscale = Multiscale.model_validate(multiscales[0])
    except (ValidationError, LookupError, TypeError) as error:
        raise UnsupportedFormatError(
            f"{name}: needed OME-Zarr metadata of version 0.4 or 0.5, found {_problem(error)}; "
            "convert it with a current version of the program that wrote it"
        ) from error
    version = multiscale.version or attributes.get("version")
    if version not in VERSIONS:
        raise UnsupportedFormatError(
            f"{name}: needed OME-Zarr version 0.4 or 0.5, found {version!r}; convert it"
        )
    names = multiscale.axis_names
    if len(set(names)) != len(multiscale.axes) or not {"y", "x"} <= set(names) <= set("tczyx"):
        found = ", ".join(axis.name for axis in multiscale.axes)
        raise UnsupportedFormatError(
            f"{name}: needed axes y and x, and t, c or z at most, found {found}"
        )
    return multiscale


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"multiscales.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return f"multiscales that are not a list ({type(error).__name__})"
