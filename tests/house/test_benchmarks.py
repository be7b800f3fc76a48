"""The tables of the benchmarks are those of their results, and nothing measured is left out."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REPORT, README = BENCHMARKS / "report.py", (BENCHMARKS / "README.md").read_text()
NO_COMMAND = {"measure.py"}
RESULTS = sorted(BENCHMARKS.glob("results/*.json"))


def test_the_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, REPORT, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_every_result_has_a_table(path):
    names = [piece.partition(" -->")[0] for piece in README.split("<!-- table ")[1:]]
    assert sum(path.stem.startswith(name) for name in names) == 1


def test_every_command_is_named():
    scripts = {path.name for path in BENCHMARKS.glob("*.py")} - NO_COMMAND
    assert {name for name in scripts if name not in README} == set()
