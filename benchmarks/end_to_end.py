"""One slide through wsiseg and its peers: the same network, weights and patches, on the CPU.

    bash benchmarks/peers/setup.sh /tmp/peers
    python benchmarks/models.py /tmp/peers/models
    python benchmarks/end_to_end.py SLIDE --model mobilenet [--who wsiseg,wsinfer] [--rounds 3]

Each runs as its users run it, in a process and an environment of its own, from the command to the
files on disk: `wsiseg segment`, `wsinfer run`, and for the others the script in `benchmarks/peers`.
Patches are 256 px of 0.5 µm without overlap; each finds tissue in its own way, so tiles differ:
compare seconds per tile. With several rounds they take turns, and the median wall time counts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure

HERE = Path(__file__).resolve().parent
PEERS = ("wsinfer", "tiatoolbox", "lazyslide")
LIBRARIES = ("torch", "torchvision", "openslide-python", "tiffslide", "zarr", "numpy")
VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def run_wsiseg(slide: Path, model: Path, out: Path) -> tuple[measure.Used, dict[str, Any]]:
    program = Path(sys.executable).parent / "wsiseg"
    used = measure.run(
        [program, "segment", slide, "--model", model, "--out", out, "--json", "--quiet"]
    )
    found = used.last_json()
    return used, {"tiles": found["tiles"], "tissue_mm2": found["tissue_mm2"]}


def run_peer(
    name: str, slide: Path, model: Path, out: Path, peers: Path
) -> tuple[measure.Used, dict[str, Any]]:
    used = measure.run(
        [peers / name / "bin" / "python", HERE / "peers" / f"run_{name}.py", slide, model, out],
        env={"PYTHONPATH": str(HERE / "peers" / "shim"), "CUDA_VISIBLE_DEVICES": ""},
    )
    return used, used.last_json()


def peer_versions(name: str, peers: Path) -> dict[str, str]:
    python = peers / name / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{python}: is not there; run benchmarks/peers/setup.sh {peers} {name}")
    return measure.run([python, "-c", VERSIONS, name, *LIBRARIES]).last_json()


def run_once(who: str, slide: Path, models: Path, peers: Path) -> dict[str, Any]:
    """Return one row: what it took, or why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        try:
            if who == "wsiseg":
                used, found = run_wsiseg(slide, models / "wsiseg", out)
            else:
                out.mkdir()
                # TIAToolbox wants to make the folder itself.
                used, found = run_peer(who, slide, models / "torchscript", out / who, peers)
        except RuntimeError as error:
            return {"who": who, "failure": str(error)}
    per_tile = used.wall_s / found["tiles"]
    return {"who": who, **used.to_dict(), **found, "ms_per_tile": round(1000 * per_tile, 2)}


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the median wall time, with all wall times."""
    done = [row for row in rows if "failure" not in row]
    if not done:
        return rows[0]
    wanted = statistics.median_low(row["wall_s"] for row in done)
    chosen = next(row for row in done if row["wall_s"] == wanted)
    return {**chosen, "walls_s": [row["wall_s"] for row in done]}


def describe(slide: Path) -> dict[str, Any]:
    import wsiseg

    with wsiseg.open(slide) as opened:
        height, width = opened.shape
        return {
            "name": slide.name,
            "width": width,
            "height": height,
            "mpp": round(opened.spacing.um[1], 4),
            "mb": round(slide.stat().st_size / 1e6),
        }


def print_row(row: dict[str, Any]) -> None:
    if "failure" in row:
        print(f"{row['who']:12} failed: {row['failure'].splitlines()[-1]}")
        return
    print(
        f"{row['who']:12} {row['wall_s']:7.1f} s {row['cpu_s']:7.1f} s CPU {row['peak_mb']:6} MB "
        f"{row['tiles']:6} tiles {row['ms_per_tile']:7.1f} ms per tile"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", choices=("mobilenet", "resnet"), default="mobilenet")
    parser.add_argument("--who", default="wsiseg,wsinfer,tiatoolbox,lazyslide")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=Path("/tmp/peers"), help="environments")
    parser.add_argument("--models", type=Path, help="from models.py; default: PEERS/models")
    args = parser.parse_args()
    who = args.who.split(",")
    models = (args.models or args.peers / "models") / args.model
    load_before = os.getloadavg()[0]
    # The first load of a model exports and checks it, once per machine: not part of a run.
    code = "import sys, wsiseg; wsiseg.load_model(sys.argv[1])"
    if (warm := measure.run([sys.executable, "-c", code, models / "wsiseg"])).failure:
        raise SystemExit(warm.failure)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in who}
    for _ in range(args.rounds):
        for name in who:
            row = run_once(name, args.slide, models, args.peers)
            print_row(row)
            rows[name].append(row)
    result: dict[str, Any] = {
        "slide": describe(args.slide),
        "network": args.model,
        "load_before": round(load_before, 2),
        "rows": [middle(rows[name]) for name in who],
        "peer_versions": {name: peer_versions(name, args.peers) for name in who if name in PEERS},
    }
    if "wsiseg" in who:
        command = [sys.executable, HERE / "breakdown.py", args.slide, models / "wsiseg"]
        command += ["--rounds", str(args.rounds)]
        result["breakdown"] = measure.run(command).last_json()
        print(json.dumps(result["breakdown"]))
    print(measure.save(f"end_to_end-{args.slide.stem.lower()}-{args.model}", result))


if __name__ == "__main__":
    main()
