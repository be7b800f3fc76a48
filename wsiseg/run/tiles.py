"""Patches of tissue as PNG files, with their coordinates."""

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.engine import fingerprint, finished_folder, ignore
from wsiseg.engine.blocks import BlockCache, BlockUses
from wsiseg.engine.inputs import BLOCK
from wsiseg.engine.stream import prefetch
from wsiseg.errors import MemoryBudgetError, MissingSpacingError, UsageError
from wsiseg.geometry import COARSEST_UM, FINEST_UM, Spacing
from wsiseg.grid import Grid, Tile
from wsiseg.machine import machine_memory, usable_cores
from wsiseg.options import FolderOptions, TissueOptions
from wsiseg.run.devices import on_cpu
from wsiseg.run.folder import FolderReport, Slides, run_folder
from wsiseg.run.records import settings_of
from wsiseg.run.turns import Row, Turn, Work
from wsiseg.source import Pyramid, View
from wsiseg.tissue import find_tissue

__all__ = ["export_tiles", "tiles_folder"]

STEM = 120
"""Characters of a slide's name kept in file names, which systems limit to 255 bytes."""

COLUMNS = ("file", "minx", "miny", "width", "height", "tissue")
"""Level-0 pixels, and the share of tissue."""


MEMORY_SHARE = 0.75
"""Of the machine's memory, for the patches under way."""


def tiles_folder(  # noqa: PLR0913 - which patches, and how the run goes
    jobs: Slides,
    out: str | Path,
    *,
    spacing_um: float,
    patch: int,
    stride: int | None = None,
    pictures: bool = True,
    options: TissueOptions | None = None,
    folder: FolderOptions | None = None,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Export the patches of each slide into `out/<slide>/`; see `export_tiles`.

    Raises
    ------
    UsageError, MemoryBudgetError
        Before the first slide, if there can be no such patches.
    RunError
        If the output folder cannot be written. What is wrong with a slide is in the report.
    """
    _check_patches(spacing_um, patch, stride, pictures=pictures)
    work = TilesWork(spacing_um, patch, stride, pictures, options or TissueOptions())
    return run_folder(
        jobs, Path(out), work, options=folder, devices=on_cpu(folder), slide_done=slide_done
    )


@dataclass(frozen=True)
class TilesWork:
    """Exporting the patches of slides."""

    spacing_um: float
    patch: int
    stride: int | None
    pictures: bool
    options: TissueOptions
    command = "tiles"

    def settings(self) -> dict[str, Any]:
        """Return what results are made from."""
        chosen = asdict(self)
        return settings_of(self.command, {"tissue": chosen.pop("options"), **chosen})

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Return what exports the patches of one slide."""
        return self._export

    def _export(self, slide: Pyramid, turn: Turn) -> Row:
        row: Row = {}
        own = fingerprint(turn.job.path)
        with finished_folder(
            turn.ground.out,
            turn.job.output,
            kind=self.command,
            slide=own,
            publishing=turn.publishing(row),
        ) as folder:
            row |= export_tiles(
                slide,
                folder,
                spacing_um=self.spacing_um,
                patch=self.patch,
                stride=self.stride,
                pictures=self.pictures,
                options=self.options,
            )
        return row


def _check_patches(spacing_um: float, patch: int, stride: int | None, *, pictures: bool) -> None:
    try:
        Spacing.from_mpp(spacing_um)
    except MissingSpacingError as error:
        raise UsageError(
            f"spacing {spacing_um} of patches: needed between {FINEST_UM} and {COARSEST_UM:.0f} µm "
            "per pixel, such as 0.5"
        ) from error
    if patch < 1:
        raise UsageError(f"patch {patch}: needed at least one pixel, such as 256")
    if stride is not None and not 1 <= stride <= patch:
        raise UsageError(
            f"stride {stride}: needed from 1 to the patch of {patch} pixels: a larger one leaves "
            "gaps"
        )
    needed, allowed = 3 * patch**2 * usable_cores(), int(MEMORY_SHARE * machine_memory())
    if pictures and needed > allowed:
        raise MemoryBudgetError(
            f"patches of {patch} pixels need {needed / 1e6:.0f} MB for {usable_cores()} at once, "
            f"allowed are {allowed / 1e6:.0f} MB; take smaller patches"
        )


def export_tiles(
    slide: Pyramid,
    folder: Path,
    *,
    spacing_um: float,
    patch: int,
    stride: int | None = None,
    pictures: bool = True,
    options: TissueOptions,
) -> dict[str, Any]:
    """Write `tiles.csv` and, if wanted, one PNG for each patch with enough tissue.

    Parameters
    ----------
    spacing_um
        µm per pixel of the patches.
    patch, stride
        Pixels; a stride below the patch makes patches overlap.
    options
        `min_fraction` is the least share of tissue.

    Raises
    ------
    UsageError
        If spacing, patch or stride make no sense.
    MemoryBudgetError
        If as many patches as there are cores do not fit into memory.

    Notes
    -----
    Patches are named as QuPath names exported tiles, `<slide> [d=..,x=..,y=..,w=..,h=..].png` in
    level-0 pixels. `tiles.csv` has the columns file, minx, miny, width, height (level-0 pixels) and
    tissue. Patches that overhang the slide hold its background there.
    """
    started = time.perf_counter()
    _check_patches(spacing_um, patch, stride, pictures=pictures)
    view = View(slide, Spacing((spacing_um, spacing_um)), 0.1)
    steps = (stride or patch,) * 2
    grid = Grid(view.shape, (patch, patch), (0, 0), (0, 0))
    if steps != (patch, patch):
        grid = Grid.of_patches(view.shape, (patch, patch), stride=steps)
    tissue = find_tissue(slide, options)
    selected = tissue.select(grid, view.downsample, options.min_fraction)
    tiles = [grid.tile(tuple(int(i) for i in index)) for index in np.argwhere(selected)]
    boxes = np.array([[*t.write.start, *t.write.stop] for t in tiles], np.float64).reshape(-1, 4)
    shares = tissue.fraction(boxes * np.tile(view.downsample, 2))
    names = [_name(slide.stem, tile, view) for tile in tiles]
    if pictures:
        _write_pictures(view, tiles, [folder / name for name in names])
    with (folder / "tiles.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for name, tile, share in zip(names, tiles, shares, strict=True):
            table.writerow([name if pictures else "", *_place(tile, view), f"{share:.4f}"])
    return {
        "slide": slide.name,
        "tiles": len(tiles),
        "spacing_um": view.spacing.um[1],
        "patch": patch,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _write_pictures(view: View, tiles: Sequence[Tile], paths: Sequence[Path]) -> None:
    import cv2

    uses = BlockUses.of_boxes((tile.read for tile in tiles), (BLOCK, BLOCK))
    cached = BlockCache(view, uses)

    def write(item: tuple[Tile, Path]) -> None:
        tile, path = item
        _, encoded = cv2.imencode(".png", cached.read(tile.read)[..., ::-1])
        path.write_bytes(encoded.tobytes())

    workers = usable_cores()
    for _ in prefetch(write, zip(tiles, paths, strict=True), workers=workers, ahead=4 * workers):
        pass


def _place(tile: Tile, view: View) -> tuple[int, int, int, int]:
    """Return (x, y, width, height) of a patch in level-0 pixels."""
    (y, x), (h, w) = tile.read.start, tile.read.shape
    down_y, down_x = view.downsample
    return round(x * down_x), round(y * down_y), round(w * down_x), round(h * down_y)


def _name(stem: str, tile: Tile, view: View) -> str:
    x, y, width, height = _place(tile, view)
    down = f"d={view.downsample[1]:.6g}," if view.downsample[1] != 1 else ""
    return f"{stem[:STEM]} [{down}x={x},y={y},w={width},h={height}].png"
