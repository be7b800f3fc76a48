"""From one regular grid of samples to another: separable, exact about where pixels are."""

from wsiseg.resample.area import area, area_span, target_shape
from wsiseg.resample.linear import linear

__all__ = ["area", "area_span", "linear", "target_shape"]
