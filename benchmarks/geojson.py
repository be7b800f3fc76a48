"""A million outlines written as GeoJSON and verified: seconds and peak memory of each phase.

    python benchmarks/geojson.py [--objects 1000000] [--vertices 31] [--whole]

Cell-like outlines on a lattice, with coordinates of 0.01 px, the finest QuPath keeps (`--whole`:
whole pixels, as masks give), held in `Polygons`. Each object has a class and two measurements. Runs
in a process of its own: the peak counts the objects themselves, and Python with everything
imported. The files are verified side by side, one process per core, once the objects are gone from
memory.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import measure
import numpy as np
import shapely
from numpy.typing import NDArray

PITCH = 32
"""Pixels between cells."""

RADIUS = 10.0

CHUNK = 10_000
"""Outlines made at once, so that making them is not what needs the memory."""


def cells(count: int, vertices: int, *, whole: bool, seed: int = 0) -> Any:
    """Return closed, star-shaped outlines of `vertices` corners each, one per lattice place."""
    from wsiseg.annotations import Polygons

    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    scale, decimals = (1.0, 2) if not whole else (3.0, 0)
    outlines = np.empty((count, vertices + 1, 2))
    for start in range(0, count, CHUNK):
        index = np.arange(start, min(start + CHUNK, count))
        centre = np.stack([index % side, index // side], axis=-1) * PITCH * scale + 16 * scale
        radius = scale * RADIUS * rng.uniform(0.85, 1.15, (len(index), vertices))
        points = centre[:, None] + radius[..., None] * circle
        outlines[index, :-1] = np.round(points, decimals)
    outlines[:, -1] = outlines[:, 0]
    return Polygons.of_outlines(outlines.reshape(-1, 2), np.arange(count + 1) * (vertices + 1))


def areas(outlines: Any) -> NDArray[np.float64]:
    """Return square pixels (n,), some outlines at a time."""
    steps = range(0, len(outlines), CHUNK)
    return np.concatenate(
        [shapely.area(outlines[start : start + CHUNK].to_shapely()) for start in steps]
    )


def make_annotations(count: int, vertices: int, *, whole: bool) -> Any:
    from wsiseg.annotations import AnnotationClass, Annotations, ImageRef
    from wsiseg.geometry import Spacing

    outlines = cells(count, vertices, whole=whole)
    rng = np.random.default_rng(1)
    side = int(outlines[-1000:].points.max()) + 4 * PITCH
    return Annotations(
        outlines,
        rng.integers(0, 3, count),
        tuple(AnnotationClass(f"Cell {k}", (200, 50 * k, 0)) for k in range(3)),
        ImageRef("million.svs", (side, side), Spacing((0.25, 0.25))),
        {"Area µm^2": areas(outlines) / 16, "Mean probability": rng.random(count)},
        object_type="detection",
    )


def cpu_seconds() -> float:
    """Return those of this process, and of the processes it has started and seen end."""
    return sum(os.times()[:4])


class Phases:
    """Seconds, CPU seconds and peak megabytes between two calls."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.start()

    def start(self) -> None:
        measure.reset_peak()
        self._mark = time.perf_counter(), cpu_seconds()

    def end(self, name: str) -> None:
        seconds, cpu = time.perf_counter() - self._mark[0], cpu_seconds() - self._mark[1]
        self.rows.append(
            {
                "phase": name,
                "seconds": round(seconds, 2),
                "cpu_s": round(cpu, 2),
                "peak_mb": round(measure.peak_mb()),
                "after_mb": round(measure.rss_mb()),
            }
        )
        self.start()


def child(count: int, vertices: int, *, whole: bool) -> dict[str, Any]:
    from wsiseg.annotations import verify_geojson, write_annotations
    from wsiseg.machine import release_memory, usable_cores

    phases = Phases()
    annotations = make_annotations(count, vertices, whole=whole)
    phases.end("objects made (not counted)")
    with tempfile.TemporaryDirectory() as folder:
        report = write_annotations(folder, annotations)
        phases.end("write")
        files = [path for path in report.files if not path.name.endswith(".index.json")]
        del annotations
        release_memory()
        phases.start()
        with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
            verdicts = list(pool.map(verify_geojson, files))
        phases.end("verify")
    loads = [verdict.loads["0.7"].objects for verdict in verdicts]
    timed = phases.rows[1:]
    return {
        "objects": count,
        "vertices": vertices,
        "coordinates": "whole pixels" if whole else "0.01 px",
        "written": report.objects,
        "repaired": report.repaired,
        "dropped": dict(report.dropped),
        "files": len(files),
        "mb": round(report.bytes / 1e6),
        "verdicts": sorted({verdict.verdict for verdict in verdicts}),
        "loaded_by_qupath_0_7": sum(loads),
        "phases": phases.rows,
        "seconds": round(sum(row["seconds"] for row in timed), 2),
        "peak_mb": max(row["peak_mb"] for row in phases.rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--vertices", type=int, default=31)
    parser.add_argument("--whole", action="store_true", help="whole pixels, as masks give")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.objects, args.vertices, whole=args.whole)))
        return
    used = measure.run([sys.executable, Path(__file__), *sys.argv[1:], "--child"])
    found = used.last_json()
    found["cpu_s"] = round(used.cpu_s - found["phases"][0]["cpu_s"], 2)  # with the processes' own
    found["peak_mb"] = max(found["peak_mb"], round(used.peak_mb))
    for row in found["phases"]:
        print(
            f"{row['phase']:28} {row['seconds']:7.1f} s {row['cpu_s']:7.1f} s CPU "
            f"peak {row['peak_mb']:6} MB, after {row['after_mb']} MB"
        )
    print(
        f"{found['written']:,} objects, {found['files']} files, {found['mb']} MB, "
        f"{', '.join(found['verdicts'])}: {found['seconds']} s ({found['cpu_s']} s CPU), "
        f"peak {found['peak_mb']} MB"
    )
    full = args.objects == 1_000_000
    name = f"geojson{'-whole' if args.whole else ''}" if full else "geojson-trial"
    print(measure.save(name, found))


if __name__ == "__main__":
    main()
