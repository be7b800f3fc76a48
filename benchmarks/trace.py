"""Polygons of a label mask: `trace_labels` against `rasterio.features.shapes` and shapely.

The mask is the class with the largest of three smooth random fields, background where none is
large: 10,000 x 7,500 pixels, about 58,000 polygons. The ways take turns, so that other work on the
machine meets both; the ratio is that of the medians of CPU seconds.

Usage: `python benchmarks/trace.py [--scale S]` (S: share of each side, for a quick look).
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.trace import trace_labels
from wsiseg.machine import peak_memory

SHAPE = (10_000, 7_500)
SIGMA = 9.25
"""Smoothness in pixels; gives about 58,000 polygons in SHAPE."""

LEVEL = 0.5
"""Standard deviations below which a field counts as background."""


def smooth_classes(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    highest = np.full(shape, LEVEL, np.float32)
    labels = np.zeros(shape, np.uint8)
    for value in (1, 2, 3):
        field = gaussian_filter(rng.standard_normal(shape, np.float32), SIGMA)
        field /= field.std()
        labels[field > highest] = value
        np.maximum(highest, field, out=highest)
    return labels


def with_wsiseg(labels: NDArray[np.uint8]) -> NDArray[np.object_]:
    return trace_labels(labels).geometries


def with_rasterio(labels: NDArray[np.uint8]) -> NDArray[np.object_]:
    from rasterio.features import shapes

    found = shapes(labels, mask=labels > 0, connectivity=4)
    return np.array([shapely.geometry.shape(outline) for outline, _ in found], object)


def report(
    name: str, trace: Callable[[NDArray[np.uint8]], NDArray[np.object_]], labels: NDArray[np.uint8]
) -> dict[str, Any]:
    start, cpu_start = time.perf_counter(), time.process_time()
    geometries = trace(labels)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    share = shapely.area(geometries).sum() / np.count_nonzero(labels)
    invalid = int((~shapely.is_valid(geometries)).sum())
    peak = peak_memory() / 2**30
    vertices = shapely.get_num_coordinates(geometries).sum()
    print(
        f"{name:28} {seconds:7.2f} {cpu_seconds:7.2f} {len(geometries):9,} {vertices:10,}"
        f" {share:13.6f} {invalid:8} {peak:9.2f}"
    )
    return {
        "way": name,
        "seconds": round(seconds, 3),
        "cpu_s": round(cpu_seconds, 3),
        "polygons": len(geometries),
        "vertices": int(vertices),
        "area_ratio": round(float(share), 6),
        "invalid": invalid,
    }


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row whose CPU seconds are the median."""
    return sorted(rows, key=lambda row: row["cpu_s"])[(len(rows) - 1) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    labels = smooth_classes((round(SHAPE[0] * arguments.scale), round(SHAPE[1] * arguments.scale)))
    print(f"{labels.shape[0]:,} x {labels.shape[1]:,} pixels, three classes")
    print(
        f"{'way':28} {'seconds':>7} {'CPU':>7} {'polygons':>9} {'vertices':>10}"
        f" {'area / pixels':>13} {'invalid':>8} {'peak GiB':>9}"
    )
    ours, theirs = [], []
    for _ in range(arguments.repeat):
        ours.append(report("wsiseg.trace_labels", with_wsiseg, labels))
        theirs.append(report("rasterio.shapes + shapely", with_rasterio, labels))
    rows = [middle(ours), middle(theirs)]
    ratio = round(rows[1]["cpu_s"] / rows[0]["cpu_s"], 1)
    print(f"ratio {ratio}")
    content = {"shape": labels.shape, "rows": rows, "ratio": ratio}
    name = "trace" if arguments.scale == 1 else "trace-trial"
    print(measure.save(name, content, packages=(*measure.PACKAGES, "rasterio")))


if __name__ == "__main__":
    main()
