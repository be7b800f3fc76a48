"""Peak resident memory on slides of different sizes, each in its own process.

    python benchmarks/memory.py small.svs large.svs [--model breast-tumour-demo]
    python benchmarks/memory.py slide.svs --dense

The first is of a whole run of the cascade. `--dense` is of the stage of a segmenter (the network
of `windows.py`, patches of 192 pixels) beside what was planned: the memory before, and its front.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure

import wsiseg

CODE = """
import json, sys, tempfile, time
import wsiseg
from wsiseg.machine import peak_memory
from pathlib import Path
model = wsiseg.load_model(sys.argv[2])
started = time.perf_counter()
result = wsiseg.segment(sys.argv[1], model)
with tempfile.TemporaryDirectory() as folder:
    result.write(folder)
print(json.dumps({
    "peak_mb": peak_memory() / 1e6,
    "planned_mb": result.plan.projected_bytes / 1e6,
    "seconds": time.perf_counter() - started,
    "objects": len(result.annotations),
}))
"""


DENSE = """
import json, sys, threading, time
import wsiseg
from wsiseg.engine.events import StageFinished, StageStarted
from wsiseg.machine import resident_memory
model = wsiseg.load_model(sys.argv[2], backend="onnxruntime")
seen = {"peak": 0}

def listen(event):
    if isinstance(event, StageStarted):
        seen["base"] = seen["peak"] = resident_memory()
    if isinstance(event, StageFinished):
        seen["ended"] = True

def look():
    while "ended" not in seen:
        if "base" in seen:
            seen["peak"] = max(seen["peak"], resident_memory())
        time.sleep(0.01)

threading.Thread(target=look, daemon=True).start()
with wsiseg.open(sys.argv[1]) as slide:
    result = wsiseg.segment(slide, model, listen=listen)
    (stage,) = result.plan.stages
    print(json.dumps({
        "base_mb": seen["base"] / 1e6,
        "peak_mb": seen["peak"] / 1e6,
        "buffer_mb": stage.buffer_bytes / 1e6,
        "front_mb": stage.front_bytes / 1e6,
        "columns": stage.columns,
        "turned": stage.pace.turned,
        "amplification": slide.reads.amplification,
    }))
"""


def one_run(code: str, slide: Path, model: Path | str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code, str(slide), str(model)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def size_of(slide: Path) -> str:
    with wsiseg.open(slide) as opened:
        return " x ".join(f"{n:,}" for n in opened.shape[::-1])


def dense(slides: list[Path]) -> list[dict[str, object]]:
    """Return what the stage of a segmenter needed, and what was planned for it."""
    from windows import write_models

    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), 192, 32, 704)
        for slide in slides:
            found = one_run(DENSE, slide, Path(folder) / "patches")
            planned = found["base_mb"] + found["buffer_mb"]
            rows.append(
                {
                    "slide, px": size_of(slide),
                    "before, MB": round(found["base_mb"]),
                    "front, MB": round(found["front_mb"]),
                    "planned MB": round(planned),
                    "peak MB": round(found["peak_mb"]),
                    "of the planned": round(found["peak_mb"] / planned, 3),
                    "columns": found["columns"],
                    "walked": "from left to right" if found["turned"] else "in rows",
                    "amplification": found["amplification"],
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--model", default="breast-tumour-demo")
    parser.add_argument("--dense", action="store_true")
    args = parser.parse_args()
    if args.dense:
        print(measure.save("dense-memory", {"rows": dense(args.slides)}))
        return
    subprocess.run(
        [sys.executable, "-c", "import wsiseg, sys; wsiseg.load_model(sys.argv[1])", args.model],
        check=True,
    )
    first = None
    rows: list[dict[str, object]] = []
    for slide in args.slides:
        found = one_run(CODE, slide, args.model)
        first = first or found["peak_mb"]
        rows.append(
            {
                "slide, px": size_of(slide),
                "peak MB": round(found["peak_mb"]),
                "of the first": round(found["peak_mb"] / first, 3),
                "planned MB": round(found["planned_mb"]),
                "seconds": round(found["seconds"], 1),
                "objects": found["objects"],
            }
        )
        print(
            f"{slide.name}: peak {found['peak_mb']:.0f} MB ({found['peak_mb'] / first:.2f} of the "
            f"first), planned {found['planned_mb']:.0f} MB, {found['seconds']:.0f} s, "
            f"{found['objects']} objects"
        )
    print(measure.save("memory", {"model": args.model, "rows": rows}))


if __name__ == "__main__":
    main()
