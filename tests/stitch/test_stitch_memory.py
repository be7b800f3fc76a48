"""Memory stays with the front, whatever the size of the mosaic."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys

import numpy as np
import psutil

from wsiseg.geometry import Spacing
from wsiseg.grid import Grid
from wsiseg.machine import peak_memory
from wsiseg.stitch import (
    HeatmapStore, Placement, Probabilities, Stitcher, projected_bytes, stitch_tiles, writer_bytes,
)

blend, stride, halo, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
values = np.random.default_rng(0).random((512, 512, 2), dtype=np.float32)


def run(shape, path):
    grid = Grid.of_patches(shape, (512, 512), stride=(stride, stride), halo=(halo, halo))
    placement = Placement(shape, Spacing((0.5, 0.5)), (1.0, 1.0))
    with HeatmapStore.create(path, placement, channels=["a", "b"]) as writer:
        reducer = Probabilities(writer)
        stitcher = Stitcher(grid, 2, blend=blend)
        for slab in stitch_tiles(((tile, values) for tile in grid), stitcher):
            reducer.push(slab)
        reducer.finish()
    return projected_bytes(grid, 2, blend) + writer_bytes(placement, 2)


run((600, 600), path + ".warm")  # libraries, threads and their buffers
before = psutil.Process().memory_info().rss
projected = run((20_000, 20_000), path)
peak = peak_memory()
print(peak - before, projected)
"""

SLACK = 128 << 20
"""Codes of one slab, the allocator's leftovers, zarr's threads."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="the module resource is missing")
@pytest.mark.parametrize(("blend", "stride"), [("crop", 448), ("gaussian", 256)])
def test_a_mosaic_of_20000_squared_stays_within_the_projected_bytes(tmp_path, blend, stride):
    halo = (512 - stride) // 2 if blend == "crop" else 0
    arguments = [blend, str(stride), str(halo), str(tmp_path / "h.zarr")]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, projected = map(int, done.stdout.split())
    assert 0.3 * projected < grown < projected + SLACK
    assert projected < 3.2e9 / 6  # the whole mosaic as float32 has 3.2 GB
