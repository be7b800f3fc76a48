"""Volumes: wsiseg beside MONAI's sliding-window inferer and nnU-Net's own functions.

    python benchmarks/volume.py [--nnunet FOLDER] [--only overhead unet skip focus peak many export]

`overhead`: the network is a convolution of 1 x 1 x 1, so that nearly all of the time is the
engine's: 160 x 160 x 160 voxels, windows of 64 with overlap 0.5, Gaussian weights, labels by
argmax. `unet`: the same with a small U-Net on 96 x 96 x 96. `skip`: windows without body left out.
`focus`: an organ found at 4 mm, then looked at as stored, beside windows all over the scan.
`peak`: memory against planes. `many`: memory with 105 classes. `export`: raw values to the voxels
of the scan, as labels.

Each measurement is a process of its own on one thread; times are of the processor, so that other
work on the machine does not count, the median of `--rounds`, in turn. Memory is the peak above what
was there before the run; labels of `wsiseg` are in a file, those of the others in memory. nnU-Net
is imported from a folder in which it is installed with what it needs (`peers/nnunet.txt`).
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measure
import numpy as np

SIDE, PATCH, OVERLAP = 160, 64, 0.5
UNET_SIDE, UNET_CLASSES = 96, 3
MANY = (105, (144, 144, 200), 96)
"""Classes, voxels, window."""

EXPORT = ((64, 96, 96), (128, 192, 192))
"""Network's grid, scan."""

BODY = (96, 128, 160)
"""Voxels of a scan of which an ellipsoid is body."""

PACKAGES = (*measure.PACKAGES, "monai", "scipy", "scikit-image")


def timed(work: Callable[[], Any], check: Callable[[Any], Any]) -> dict[str, Any]:
    """Return processor seconds and added peak memory of a call, and what its result says."""
    gc.collect()
    measure.reset_peak()
    before = measure.rss_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    added = measure.peak_mb() - before
    return {"cpu_s": cpu_s, "wall_s": wall_s, "added_mb": round(added), "check": check(found)}


def checksum(labels: np.ndarray) -> list[int]:
    """Return the voxels of the first classes."""
    return np.bincount(np.asarray(labels).reshape(-1), minlength=4)[:4].tolist()


def image(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def network(kind: str, classes: int) -> Any:
    """Return a network of torch with weights drawn by chance."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    if kind == "unet":
        from wsiseg.model import networks

        arguments = {"widths": [16, 32, 64], "bottleneck": 64}
        return networks.build("wsiseg.unet3d", channels=(1,), classes=classes, arguments=arguments)
    return torch.nn.Conv3d(1, classes, 1).eval()


def package(kind: str, classes: int, patch: int, frame: Mapping[str, Any]) -> Any:
    """Return a model of wsiseg that runs the network by torch."""
    return model_of([stage_of(patch)], [network(kind, classes)], classes, frame)


def stage_of(patch: int) -> dict[str, Any]:
    return {
        "name": "s",
        "kind": "segmenter",
        "windows": {"plan": "monai", "overlap": OVERLAP},
        "inputs": [{"from": "scan", "channels": ["v"], "patch": [patch] * 3}],
        "output": {"name": "m", "blend": "gaussian-monai", "stitched": "raw"},
        "weights": {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"},
    }


def model_of(
    stages: list[dict[str, Any]], networks: list[Any], classes: int, frame: Mapping[str, Any]
) -> Any:
    from wsiseg.model import Model
    from wsiseg.model.card import ModelCard
    from wsiseg.model.predictor import StagePredictor
    from wsiseg.model.preprocessed import PreprocessedNetwork
    from wsiseg.model.torch_backend import TorchNetwork

    known = dict.fromkeys(("license", "trained_on", "intended_use", "limits"), "benchmark")
    content = {
        "schema_version": 1,
        "name": "bench",
        "version": "1",
        "task": "semantic",
        "axes": "zyx",
        "classes": [{"name": str(k)} for k in range(classes)],
        "scan": frame,
        "stages": stages,
        "provenance": known,
    }
    card = ModelCard.parse(json.dumps(content))
    modules = [PreprocessedNetwork(n.eval(), s) for n, s in zip(networks, card.stages, strict=True)]
    predictors = tuple(
        StagePredictor(stage, classes, TorchNetwork(module.eval(), threads=1))
        for stage, module in zip(card.stages, modules, strict=True)
    )
    return Model(card, "0", Path(), predictors, (classes,) * len(stages), "torch", "cpu")


def segmented(model: Any, values: np.ndarray) -> Any:
    """Return wsiseg's result on a scan, its working files in a folder that is gone."""
    from wsiseg.geometry import Affine
    from wsiseg.options import RunOptions
    from wsiseg.scans import segment_scan
    from wsiseg.source import open_volume

    scan = open_volume(values, affine=Affine.from_spacing((1, 1, 1)))
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(threads=1)
        return segment_scan(scan, model, options=options, work_dir=Path(folder))


def wsiseg(kind: str, classes: int, shape: tuple[int, ...], patch: int) -> dict[str, Any]:
    model, values = package(kind, classes, patch, {}), image(shape)
    segmented(model, values[:patch, :patch, :patch].copy())  # imports are not the engine's

    def about(result: Any) -> dict[str, Any]:
        return {"voxels": checksum(result.labels), "plan": result.plan.stages[0].memory}

    found = timed(lambda: segmented(model, values), about)
    area, deep = shape[1] * shape[2], min(patch, shape[0])
    outputs = 4 * patch**3 * (1 + 2 * classes)
    found["formula_mb"] = round((4 * classes * deep * area + outputs + shape[0] * area) / 1e6)
    return found


def monai(kind: str, classes: int, shape: tuple[int, ...], patch: int) -> dict[str, Any]:
    import torch
    from monai.inferers import sliding_window_inference

    net, values = network(kind, classes), torch.from_numpy(image(shape))[None, None]

    def work(given: Any) -> np.ndarray:
        with torch.inference_mode():
            found = sliding_window_inference(
                given, (patch,) * 3, 4, net, overlap=OVERLAP, mode="gaussian"
            )
            return found[0].argmax(0).numpy()

    work(values[..., :patch, :patch, :patch])
    return timed(lambda: work(values), lambda labels: {"voxels": checksum(labels)})


def nnunet(kind: str, classes: int, shape: tuple[int, ...], patch: int) -> dict[str, Any]:
    import contextlib
    from types import SimpleNamespace

    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(sys.stderr):
        predictor = nnUNetPredictor(
            tile_step_size=1 - OVERLAP,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
    predictor.network = network(kind, classes)
    predictor.configuration_manager = SimpleNamespace(patch_size=(patch,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
    values = torch.from_numpy(image(shape))[None]

    def work(given: Any) -> np.ndarray:
        return predictor.predict_sliding_window_return_logits(given).argmax(0).numpy()

    work(values[..., :patch, :patch, :patch])
    return timed(lambda: work(values), lambda labels: {"voxels": checksum(labels)})


def skip() -> dict[str, Any]:
    """Return what leaving out windows without body saves, and changes."""
    places = [np.linspace(-1, 1, n, dtype=np.float32) for n in BODY]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    body = ((x + y) ** 2 / 0.1 + (x - y) ** 2 / 2 + z * z / 2 <= 1).astype(np.float32)
    values = np.where(body > 0, image(BODY) + 5, -1000).astype(np.float32)
    found: dict[str, Any] = {}
    labels = {}
    for name, skipped in (("all", False), ("skip", True), ("all", False), ("skip", True)):
        crop = {"to": "body", "threshold": -300.0, "margin_mm": 0.0, "skip_windows": skipped}
        model = package("unet", UNET_CLASSES, 32, {"crop": crop})
        result: list[Any] = []
        used = timed(lambda m=model, r=result: r.append(segmented(m, values)), lambda _: None)
        stage, labels[name] = result[0].plan.stages[0], np.array(result[0].labels)
        found[f"{name}_s"] = used["cpu_s"]  # the second: imports are done by then
        found[f"{name}_windows"] = stage.windows
    differs = labels["all"] != labels["skip"]
    found["kept"] = found["skip_windows"] / found["all_windows"]
    found["time"] = found["skip_s"] / found["all_s"]
    found["changed in the body"] = float(differs[body > 0].mean())
    found["labels outside of it"] = int((labels["skip"][body == 0] > 0).sum())
    return found


def focus() -> dict[str, Any]:
    """Return what looking around an organ found at 4 mm saves, and how its labels change."""
    import torch

    class Organ(torch.nn.Module):
        """The cost of a U-Net, and an answer that is known: what is brighter than 0.5."""

        def __init__(self) -> None:
            super().__init__()
            self.unet = network("unet", 2)

        def forward(self, x: Any) -> Any:
            return 0 * self.unet(x) + torch.cat([torch.zeros_like(x), 20 * (x - 0.5)], 1)

    places = [np.linspace(-1, 1, n, dtype=np.float32) for n in (SIDE,) * 3]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    distance = np.sqrt((z - 0.3) ** 2 + (y + 0.2) ** 2 * 1.5 + (x - 0.1) ** 2)
    values = np.clip((0.25 - distance) * 20 + 0.5, 0, 1) + image((SIDE,) * 3) / 50
    fine = stage_of(PATCH // 2)
    coarse = {**fine, "name": "coarse", "output": {**fine["output"], "name": "c"}}
    (read,) = fine["inputs"]
    coarse["inputs"] = [{**read, "spacing_um": [4000.0] * 3}]
    within = {"classes": ["1"], "margin_mm": 8.0, "grow": 3}
    ways = {"all": [fine], "focus": [coarse, {**fine, "within": within}]}
    found: dict[str, Any] = {}
    labels = {}
    for name in ("all", "focus", "focus"):
        model = model_of(ways[name], [Organ() for _ in ways[name]], 2, {})
        result: list[Any] = []
        used = timed(lambda m=model, r=result: r.append(segmented(m, values)), lambda _: None)
        found[f"{name}_s"] = used["cpu_s"]
        found[f"{name}_windows"] = sum(stage.windows for stage in result[0].plan.stages)
        labels[name] = np.array(result[0].labels) > 0
    truth = distance < 0.25
    for name, mask in labels.items():
        found[f"{name}_dice"] = 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum())
    return found | {"time": found["focus_s"] / found["all_s"]}


def exported(who: str, classes: int) -> dict[str, Any]:
    source, target = EXPORT
    values = np.random.default_rng(0).normal(size=(classes, *source)).astype(np.float32)
    ways = {"wsiseg": fused, "nnunet": resampled, "nnunet-torch": resampled_by_torch}
    return timed(lambda: ways[who](values, target), lambda found: {"voxels": checksum(found)})


def fused(values: np.ndarray, target: tuple[int, ...]) -> np.ndarray:
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
    return sink.array


def resampled(values: np.ndarray, target: tuple[int, ...]) -> np.ndarray:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    spacing = (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)
    return resample_data_or_seg_to_shape(values, target, *spacing, order=1, order_z=0).argmax(0)


def resampled_by_torch(values: np.ndarray, target: tuple[int, ...]) -> np.ndarray:
    import torch
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

    torch.set_num_threads(1)
    spacing = (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)
    given = torch.from_numpy(values)
    found = resample_torch_fornnunet(given, target, *spacing, num_threads=1)
    return np.asarray(torch.as_tensor(found).argmax(0))


ENGINES: dict[str, Callable[..., dict[str, Any]]] = {
    "wsiseg": wsiseg,
    "monai": monai,
    "nnunet": nnunet,
}


def child(arguments: list[str]) -> dict[str, Any]:
    what, *rest = arguments
    if what in ("skip", "focus"):
        return {"skip": skip, "focus": focus}[what]()
    if what == "export":
        return exported(rest[0], int(rest[1]))
    kind, classes, patch, *shape = rest
    return ENGINES[what](kind, int(classes), tuple(map(int, shape)), int(patch))


class Runner:
    """Runs measurements, each as often as asked; the median by processor seconds is kept."""

    def __init__(self, nnunet: Path | None, rounds: int, classes: list[int]) -> None:
        self.classes = classes
        self.engines = ["wsiseg", "monai", *(["nnunet"] if nnunet else [])]
        self.exports = ["wsiseg", *(["nnunet", "nnunet-torch"] if nnunet else [])]
        self._path = str(nnunet or "")
        self._rounds = rounds

    def all(self, names: list[str], *arguments: object, before: bool = True) -> list[Any]:
        """Return a row for each name; they are run in turn."""
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(self._rounds):
            for name in names:
                given = (name, *arguments) if before else (*arguments, name)
                runs[name].append(self.one(*given))
        return [{"who": name, **_median(found)} for name, found in runs.items()]

    def one(self, *arguments: object) -> dict[str, Any]:
        command = [sys.executable, __file__, "--child", *map(str, arguments)]
        env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": self._path}
        used = measure.run(command, env=env)
        if used.failure:
            raise SystemExit(used.failure)
        found = used.last_json()
        print(*arguments, found, flush=True)
        return found


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:
    middle = statistics.median_low(one["cpu_s"] for one in found)
    return next(one for one in found if one["cpu_s"] == middle)


def overhead(runner: Runner) -> list[Any]:
    shape = (SIDE,) * 3
    return [
        {"classes": k, "rows": runner.all(runner.engines, "conv", k, PATCH, *shape)}
        for k in runner.classes
    ]


def unet(runner: Runner) -> list[Any]:
    return runner.all(runner.engines, "unet", UNET_CLASSES, PATCH // 2, *(UNET_SIDE,) * 3)


def peak(runner: Runner) -> list[Any]:
    shapes = [(32, 160), (3, 400), (3, 1600), (32, 640)]
    return [
        {"classes": k, "planes": n, **runner.one("wsiseg", "conv", k, PATCH, n, SIDE, SIDE)}
        for k, n in shapes
    ]


def many(runner: Runner) -> list[Any]:
    classes, shape, patch = MANY
    engines = runner.engines[:2]
    return [{"who": who, **runner.one(who, "conv", classes, patch, *shape)} for who in engines]


def export(runner: Runner) -> list[Any]:
    return [
        {"classes": k, "rows": [{"who": w, **runner.one("export", w, k)} for w in runner.exports]}
        for k in runner.classes
    ]


PARTS: dict[str, Callable[[Runner], Any]] = {
    "overhead": overhead,
    "unet": unet,
    "skip": lambda runner: runner.one("skip"),
    "focus": lambda runner: runner.one("focus"),
    "peak": peak,
    "many": many,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nnunet", type=Path, help="folder in which nnU-Net is installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 32, 96])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--child", nargs="+")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child)))
        return
    runner = Runner(args.nnunet, args.rounds, args.classes)
    for name in args.only:
        content = {"found": PARTS[name](runner), "rounds": args.rounds}
        used = {**content, "peer_versions": peer_versions(args.nnunet)}
        measure.save(f"volume-{name}", used, packages=PACKAGES)


def peer_versions(folder: Path | None) -> dict[str, str]:
    """Return the version of nnU-Net in its folder."""
    found = sorted(folder.glob("nnunetv2-*.dist-info")) if folder else []
    return {"nnunet": found[-1].name.split("-")[1].removesuffix(".dist")} if found else {}


if __name__ == "__main__":
    main()
