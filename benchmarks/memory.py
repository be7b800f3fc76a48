"""Peak resident memory of the cascade on slides of different sizes, each in its own process.

python benchmarks/memory.py small.svs large.svs [--model breast-tumour-demo]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

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


def one_run(slide: Path, model: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(slide), model], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--model", default="breast-tumour-demo")
    args = parser.parse_args()
    subprocess.run(
        [sys.executable, "-c", "import wsiseg, sys; wsiseg.load_model(sys.argv[1])", args.model],
        check=True,
    )
    first = None
    rows: list[dict[str, object]] = []
    for slide in args.slides:
        found = one_run(slide, args.model)
        first = first or found["peak_mb"]
        with wsiseg.open(slide) as opened:
            size = " x ".join(f"{n:,}" for n in opened.shape[::-1])
        rows.append(
            {
                "slide, px": size,
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
