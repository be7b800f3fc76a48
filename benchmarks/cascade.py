"""The two-stage cascade on one slide, as users run it, beside H2G-Net's published time.

    python benchmarks/cascade.py SLIDE [--model breast-tumour-demo] [--rounds 1]

H2G-Net took 58.07 s for one representative slide at 400x on a CPU (OpenVINO; hardware and tissue
area not stated; Pedersen et al. 2022, doi:10.3389/fmed.2022.971873): classifier of 256 px at 1 µm
without overlap, then one refinement of the whole slide at 1024 px. The bundled model does more per
mm²: 64 px at 1 µm every 16 px, then 384 px at 2 µm all over the tissue. Compare seconds per mm².
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
from end_to_end import describe

PUBLISHED_S = 58.07


def run_once(slide: Path, model: str) -> dict[str, Any]:
    program = Path(sys.executable).parent / "wsiseg"
    with tempfile.TemporaryDirectory() as out:
        used = measure.run(
            [program, "segment", slide, "--model", model, "--out", out, "--json", "--quiet"]
        )
        found = used.last_json()
        (run,) = Path(out).glob("*/run.json")
        recorded = json.loads(run.read_text())
    area = found["tissue_mm2"]
    return {
        **used.to_dict(),
        "tissue_mm2": round(area, 2),
        "s_per_mm2": round(used.wall_s / area, 3),
        "tiles": found["tiles"],
        "objects": found["objects"],
        "columns": max(stage["columns"] for stage in recorded["stages"]),
        "amplification": recorded["reads"] and round(recorded["reads"]["amplification"], 4),
        "stages": [
            {k: stage[k] for k in ("stage", "tiles", "seconds")} for stage in recorded["stages"]
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", default="breast-tumour-demo")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    # The first load of a model exports and checks it, once per machine: not part of a run.
    code = "import sys, wsiseg; wsiseg.load_model(sys.argv[1])"
    if (warm := measure.run([sys.executable, "-c", code, args.model])).failure:
        raise SystemExit(warm.failure)
    rows = [run_once(args.slide, args.model) for _ in range(args.rounds)]
    wanted = statistics.median_low(row["wall_s"] for row in rows)
    row = next(row for row in rows if row["wall_s"] == wanted)
    print(
        f"{row['wall_s']:.1f} s ({row['cpu_s']:.1f} s CPU, {row['peak_mb']} MB) for "
        f"{row['tissue_mm2']} mm² of tissue: {row['s_per_mm2']} s per mm²; published: {PUBLISHED_S}"
    )
    content = {
        "slide": describe(args.slide),
        "model": args.model,
        "load_before": round(load_before, 2),
        "published_s": PUBLISHED_S,
        **row,
        "walls_s": [row["wall_s"] for row in rows],
    }
    print(measure.save(f"cascade-{args.slide.stem.lower()}", content))


if __name__ == "__main__":
    main()
