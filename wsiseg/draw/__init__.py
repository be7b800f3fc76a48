"""Pictures people look at: overlays, outlines, scale bars, overviews. Arrays in, arrays out."""

from wsiseg.draw.canvas import save_png
from wsiseg.draw.legend import Entry, legend, with_panel
from wsiseg.draw.overlay import fill, outline, overlay
from wsiseg.draw.overview import DrawnClass, overview
from wsiseg.draw.palette import class_color
from wsiseg.draw.plot import plot_image
from wsiseg.draw.scale_bar import ScaleBar, scale_bar

__all__ = [
    "DrawnClass",
    "Entry",
    "ScaleBar",
    "class_color",
    "fill",
    "legend",
    "outline",
    "overlay",
    "overview",
    "plot_image",
    "save_png",
    "scale_bar",
    "with_panel",
]
