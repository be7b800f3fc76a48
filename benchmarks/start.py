"""Seconds from the start of `wsiseg segment` to its first predicted tiles, all caches warm.

python benchmarks/start.py SLIDE [--model breast-tumour-demo] [--rounds 5]

The command runs as always, with a listener in place of its progress bar. The time counts from
before the process is made.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

CHILD = """
import os, sys, time
from contextlib import contextmanager
from wsiseg_cli import main, progress

seen = []

@contextmanager
def watch(slides, *, quiet=False):
    yield lambda event: seen.append(time.time()), lambda slide: None

progress.show_progress = watch
try:
    main.main()
finally:
    print(seen[1] - float(os.environ["STARTED"]), file=sys.stderr)  # [0]: the stage starts
"""


def first_tiles(slide: Path, model: str) -> tuple[float, float]:
    """Return seconds to the first tiles, and to the end of the process."""
    with tempfile.TemporaryDirectory() as out:
        started = time.time()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, "segment", slide, "--model", model, "--out", out],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "STARTED": str(started)},
        )
        return float(done.stderr.splitlines()[-1]), time.time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", default="breast-tumour-demo")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    first_tiles(args.slide, args.model)  # makes what is cached
    found = [first_tiles(args.slide, args.model) for _ in range(args.rounds)]
    rows = [
        {
            "slide": args.slide.name,
            "model": Path(args.model).name,
            "first tiles, s": round(statistics.median(first for first, _ in found), 2),
            "whole process, s": round(statistics.median(whole for _, whole in found), 2),
        }
    ]
    print(rows)
    print(measure.save("start", {"rows": rows, "all_s": [round(first, 2) for first, _ in found]}))


if __name__ == "__main__":
    main()
