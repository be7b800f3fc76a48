"""Where we look: tiles that cover an image, and the order they are walked in."""

from wsiseg.grid.columns import Column, cut_columns
from wsiseg.grid.grid import Grid, Tile
from wsiseg.grid.windows import WindowPlan, window_grid

__all__ = ["Column", "Grid", "Tile", "WindowPlan", "cut_columns", "window_grid"]
