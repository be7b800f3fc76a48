"""Volumes: what the engine adds to a network, beside MONAI; the export beside a plain resize.

    python benchmarks/volume.py [--classes 3 32 96] [--peak-sizes 160 640]

The network is a convolution of 1 x 1 x 1 in torch, so that nearly all of the time is the engine's:
160 x 160 x 160 voxels, windows of 64 with overlap 0.5, Gaussian weights, labels by argmax. Each
measurement is a process of its own on one thread; times are of the processor, so that other work on
the machine does not count, and memory is the peak above what was there before the run.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np

SIDE, PATCH, OVERLAP = 160, 64, 0.5
EXPORT = (32, (64, 96, 96), (128, 192, 192))
"""Classes, network's grid, scan."""


def timed(work: Callable[[], Any]) -> dict[str, Any]:
    """Return processor seconds and added peak memory of a call, and what it gave."""
    gc.collect()
    measure.reset_peak()
    before = measure.rss_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "added_mb": round(measure.peak_mb() - before),
        "check": found,
    }


def network(classes: int) -> Any:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch.nn.Conv3d(1, classes, 1).eval()


def image(depth: int) -> np.ndarray:
    return np.random.default_rng(0).random((depth, SIDE, SIDE), dtype=np.float32)


def checksum(labels: np.ndarray) -> list[int]:
    return np.bincount(np.asarray(labels).reshape(-1), minlength=4)[:4].tolist()


def ours(classes: int, depth: int) -> dict[str, Any]:
    import tempfile

    import torch

    from wsiseg.engine.events import ignore
    from wsiseg.engine.scan_graph import lay_out_scan
    from wsiseg.engine.scan_plan import plan_scan
    from wsiseg.engine.scan_run import run_scan
    from wsiseg.geometry import Affine
    from wsiseg.machine import set_allocator
    from wsiseg.model import Model
    from wsiseg.model.card import ModelCard
    from wsiseg.model.predictor import FunctionPredictor
    from wsiseg.options import RunOptions
    from wsiseg.source import open_volume
    from wsiseg.volume.scan import Scan

    convolution, values = network(classes), image(depth)
    set_allocator("torch")  # as `segment_scan` does for the backend that runs

    def predict(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = convolution(torch.from_numpy(patches).movedim(-1, 1))
        return found.movedim(1, -1).numpy()

    stage = {
        "name": "s",
        "kind": "segmenter",
        "windows": {"plan": "monai", "overlap": OVERLAP},
        "inputs": [{"from": "scan", "channels": ["v"], "patch": [PATCH] * 3}],
        "output": {"name": "m", "blend": "gaussian-monai", "stitched": "raw"},
        "weights": {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"},
    }
    card = ModelCard.parse(
        json.dumps(
            {
                "schema_version": 1,
                "name": "bench",
                "version": "1",
                "task": "semantic",
                "axes": "zyx",
                "classes": [{"name": str(k)} for k in range(classes)],
                "scan": {},
                "stages": [stage],
                "provenance": dict.fromkeys(
                    ("license", "trained_on", "intended_use", "limits"), "benchmark"
                ),
            }
        )
    )
    model = Model(
        card, "0", Path(), (FunctionPredictor(predict),), (classes,), "onnxruntime", "cpu"
    )
    scan = Scan.of([open_volume(values, affine=Affine.from_spacing((1, 1, 1)))], card.scan)
    setups = lay_out_scan(card, scan)
    selected = [np.ones(setups[0].grid.counts, np.bool_)]
    plan = plan_scan(model, scan, setups, selected, RunOptions(threads=1, batch_size=1))
    with tempfile.TemporaryDirectory() as folder:

        def work() -> list[int]:
            output = run_scan(model, scan, setups, selected, plan, Path(folder), listen=ignore)
            return checksum(output.labels.map())

        found = timed(work)
    patch = 4 * PATCH**3 * (1 + 2 * classes)
    found["formula_mb"] = round(
        (4 * classes * PATCH * SIDE * SIDE + patch + depth * SIDE * SIDE) / 1e6
    )
    return found


def monai(classes: int, depth: int) -> dict[str, Any]:
    import torch
    from monai.inferers import sliding_window_inference

    convolution, values = network(classes), torch.from_numpy(image(depth))[None, None]

    def work() -> list[int]:
        with torch.inference_mode():
            found = sliding_window_inference(
                values, (PATCH,) * 3, 4, convolution, overlap=OVERLAP, mode="gaussian"
            )
            return checksum(found[0].argmax(0).numpy())

    return timed(work)


def exported(how: str) -> dict[str, Any]:
    classes, source, target = EXPORT
    values = np.random.default_rng(0).normal(size=(classes, *source)).astype(np.float32)
    return timed(lambda: (fused if how == "fused" else plain)(values, target))


def fused(values: np.ndarray, target: tuple[int, ...]) -> list[int]:
    from wsiseg.geometry import Box
    from wsiseg.resample import AxisMap
    from wsiseg.stitch import ArraySink, Slab
    from wsiseg.volume.export import FusedExport
    from wsiseg.volume.rules import ArgmaxRule

    source, sink = values.shape[1:], ArraySink(target)
    maps = [AxisMap.extent(n, m) for n, m in zip(source, target, strict=True)]
    export = FusedExport(
        maps,
        (1, 1, 1),
        len(values),
        box=Box.of_shape(target),
        whole=target,
        rule=ArgmaxRule(),
        labels=sink,
        blank=[0.0] * len(values),
    )
    for z in range(source[0]):
        box = Box((z, 0, 0), (z + 1, *source[1:]))
        slab = np.moveaxis(values[:, z : z + 1], 0, -1)
        export.push(Slab(box, slab, np.ones(box.shape, np.bool_)))
    export.finish()
    return checksum(sink.array)


def plain(values: np.ndarray, target: tuple[int, ...]) -> list[int]:
    from scipy.ndimage import zoom

    factors = [m / n for n, m in zip(values.shape[1:], target, strict=True)]
    found = np.stack(
        [
            zoom(one.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True)
            for one in values
        ]
    )
    return checksum(found.argmax(0))


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "wsiseg": ours,
    "monai": monai,
    "export": exported,
}


def run(*arguments: object) -> dict[str, Any]:
    used = measure.run([sys.executable, __file__, "--child", *map(str, arguments)])
    if used.failure:
        raise SystemExit(used.failure)
    found = used.last_json()
    print(*arguments, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 32, 96])
    parser.add_argument("--peak-sizes", type=int, nargs="*", default=[160, 640])
    parser.add_argument("--child", nargs="+")
    args = parser.parse_args()
    if args.child:
        name, *rest = args.child
        print(json.dumps(CHILDREN[name](*(int(v) if v.isdigit() else v for v in rest))))
        return
    overhead = [
        {"classes": k, "wsiseg": run("wsiseg", k, SIDE), "monai": run("monai", k, SIDE)}
        for k in args.classes
    ]
    peaks = [{"depth": n, **run("wsiseg", args.classes[0], n)} for n in args.peak_sizes]
    exports = {how: run("export", how) for how in ("fused", "plain")}
    result = {"overhead": overhead, "peaks": peaks, "export": exports}
    measure.save("volume", result, packages=(*measure.PACKAGES, "monai", "scipy"))


if __name__ == "__main__":
    main()
