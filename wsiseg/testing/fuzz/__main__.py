"""`python -m wsiseg.testing.fuzz`: exit 0 when nothing bad came of the files, else 1."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from wsiseg.testing.fuzz.campaign import BAD, Limits, Outcome, fuzz, table, to_json

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    asked = _parser().parse_args(arguments)
    indices = asked.only_index or range(asked.first, asked.first + asked.inputs)
    until = time.monotonic() + 60 * asked.minutes
    limits = Limits(asked.seconds, int(asked.memory * 1e6))
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="wsiseg-fuzz-") as temporary:
        found = fuzz(
            indices, Path(temporary), seed=asked.seed, only=asked.format,
            processes=asked.processes, limits=limits, keep=asked.keep,
        )  # fmt: skip
        for outcome in found:
            outcomes.append(outcome)
            if outcome.kind in BAD or asked.only_index:
                _say(f"{outcome.index} {outcome.name}: {outcome.kind}: {outcome.text}")
                if outcome.where:
                    _say(outcome.where)
            if len(outcomes) % 100 == 0:
                bad = sum(one.kind in BAD for one in outcomes)
                _say(f"{len(outcomes)} of {len(indices)}, {bad} bad")
            if time.monotonic() > until:
                _say(f"the time is up after {len(outcomes)} inputs")
                break
    sys.stdout.write(table(outcomes) + "\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps(to_json(outcomes, asked.seed), indent=2))
    return int(any(outcome.kind in BAD for outcome in outcomes))


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wsiseg.testing.fuzz",
        description="Damaged files of every format through everything that reads files.",
    )
    add = parser.add_argument
    add("--inputs", type=int, default=2000, help="how many files (default: 2000)")
    add("--first", type=int, default=0, help="number of the first file")
    add("--seed", type=int, default=0, help="what decides the changes")
    add("--only-index", type=int, action="append", metavar="N", help="only this file; repeatable")
    add("--format", action="append", default=[], help="only formats called like this; repeatable")
    add("--minutes", type=float, default=1e6, help="stop after this time")
    add("--processes", type=int, default=1, help="files tried at once")
    add("--seconds", type=float, default=60.0, help="what takes longer hangs")
    add("--memory", type=float, default=1500.0, metavar="MB", help="what takes more is bad")
    add("--keep", type=Path, metavar="FOLDER", help="where files with a bad outcome go")
    add("--json", type=Path, metavar="FILE", help="write counts and bad outcomes there")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
