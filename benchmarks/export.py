"""A result of a million tiles and 200,000 cells exported: seconds, peak memory and file sizes.

    python benchmarks/export.py [--tiles 1000000] [--cells 200000]

The result is made first, of a heatmap of three classes and cell-like outlines of 31 vertices. Each
export then runs in a process of its own, whose peak counts Python with everything imported. Each
GeoJSON file is verified by itself, as QuPath would load it.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from geojson import make_annotations

SPACING_UM = 16.0
DOWNSAMPLE = 64

EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiles, QuPath": ("qupath", {"kind": "tiles"}),
    "tiles, WSInfer CSV": ("wsinfer", {}),
    "tiles, CLAM HDF5": ("clam", {}),
    "tiles, GeoParquet": ("geoparquet", {"kind": "tiles"}),
    "cells, QuPath": ("qupath", {"kind": "cells"}),
    "cells, QuPath, gz": ("qupath", {"kind": "cells", "compress": True}),
    "cells, COCO": ("coco", {}),
    "cells, GeoParquet": ("geoparquet", {}),
}


def make_result(folder: Path, tiles: int, cells: int) -> None:
    from wsiseg.annotations import ImageRef, write_annotations
    from wsiseg.geometry import Box, Spacing
    from wsiseg.stitch import HeatmapStore, Placement

    side = int(np.ceil(np.sqrt(tiles)))
    annotations = make_annotations(cells, 31, whole=False)
    size = max(side * DOWNSAMPLE, annotations.image.shape[0])
    image = ImageRef("large.svs", (size, size), Spacing((0.25, 0.25)))
    object.__setattr__(annotations, "image", image)
    write_annotations(folder, annotations)
    rng = np.random.default_rng(0)
    placement = Placement((side, side), Spacing((SPACING_UM,) * 2), (DOWNSAMPLE,) * 2)
    names = ["background", "Tumor", "Stroma"]
    with HeatmapStore.create(folder / "heatmap.zarr", placement, channels=names) as writer:
        codes = rng.integers(1, 256, (side, side, 3), np.uint8)
        writer.write(Box((0, 0), (side, side)), codes)
        writer.finish()


def child(result: Path, what: str) -> dict[str, Any]:
    from wsiseg.annotations import verify_geojson
    from wsiseg.exchange import ExportRequest, export_result

    to, asked = EXPORTS[what]
    with tempfile.TemporaryDirectory() as folder:
        measure.reset_peak()
        start, cpu = time.perf_counter(), time.process_time()
        report = export_result(result, to, folder, request=ExportRequest(**asked))
        found: dict[str, Any] = {
            "export": what,
            "objects": report.objects,
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "peak_mb": round(measure.peak_mb()),
        }
        files = [path for path in report.files if not path.name.endswith(".index.json")]
        sizes = [path.stat().st_size / 1e6 for path in files]
        found |= {"files": len(files), "largest_mb": round(max(sizes), 1), "mb": round(sum(sizes))}
        if to == "qupath":
            verdicts = [verify_geojson(path) for path in files]
            found["verdicts"] = sorted({verdict.verdict for verdict in verdicts})
            found["loaded_by_qupath_0_7"] = sum(v.loads["0.7"].objects for v in verdicts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.result, args.child)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "large"
        result.mkdir()
        make_result(result, args.tiles, args.cells)
        for what in EXPORTS:
            command = [sys.executable, Path(__file__), "--result", result, "--child", what]
            rows.append(measure.run(command).last_json())
            print(rows[-1])
    full = (args.tiles, args.cells) == (1_000_000, 200_000)
    print(measure.save("export" if full else "export-trial", {"exports": rows}))


if __name__ == "__main__":
    main()
