"""What `wsiseg doctor` foretells beside what runs then take, in turn.

    python benchmarks/doctor.py SLIDE:MODEL [SLIDE:MODEL ...] [--rounds 3]

Of each pair both commands run alternately, in processes of their own; the medians count. Seconds
are those of the whole command, everything cached. The step that took longest in the run is the
largest of reading, predicting and writing.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure

PROGRAM = Path(sys.executable).parent / "wsiseg"

STEPS = {
    "read": ("file", "decode", "reduce", "cut"),
    "predict": ("predict",),
    "write": ("write",),
}
"""Steps of the doctor by what a run counts."""


def foretold(slide: str, model: str) -> dict[str, Any]:
    return measure.run([PROGRAM, "doctor", slide, "--model", model, "--json"]).last_json()


def run(slide: str, model: str) -> tuple[float, dict[str, float]]:
    """Return the seconds of the command, and the core seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        used = measure.run(
            [PROGRAM, "segment", slide, "--model", model, "--out", folder, "--quiet"]
        )
        if used.failure:
            raise SystemExit(used.failure)
        (record,) = Path(folder).glob("*/run.json")
        stages = json.loads(record.read_text())["stages"]
    return used.wall_s, {s: sum(stage[f"{s}_s"] for stage in stages) for s in STEPS}


def compare(slide: str, model: str, rounds: int) -> dict[str, Any]:
    pairs = [(foretold(slide, model), run(slide, model)) for _ in range(rounds)]
    wanted = statistics.median(told["start_s"] + told["seconds"]["total"] for told, _ in pairs)
    took = statistics.median(seconds for _, (seconds, _) in pairs)
    told, (_, steps) = pairs[-1]
    named, longest = told["bottleneck"], max(steps, key=steps.__getitem__)
    return {
        "slide": Path(slide).name,
        "model": Path(model).parent.name if "/" in model else model,
        "foretold s": round(wanted, 2),
        "run s": round(took, 2),
        "ratio": round(wanted / took, 3),
        "bottleneck named": named,
        "longest in the run": longest,
        "same": "yes" if named in STEPS[longest] else "no",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="SLIDE:MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for pair in args.pairs:
        slide, _, model = pair.partition(":")
        foretold(slide, model)  # makes what is cached
        rows.append(compare(slide, model, args.rounds))
        print(rows[-1], flush=True)
    print(measure.save("doctor", {"rows": rows}))


if __name__ == "__main__":
    main()
