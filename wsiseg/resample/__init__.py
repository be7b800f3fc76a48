"""From one regular grid of samples to another: separable, exact about where pixels are."""

from wsiseg.resample.area import area, area_span, target_shape
from wsiseg.resample.axis import AxisMap, along_axis, bracket
from wsiseg.resample.linear import linear

__all__ = ["AxisMap", "along_axis", "area", "area_span", "bracket", "linear", "target_shape"]
