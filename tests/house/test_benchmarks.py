"""The tables of the benchmarks are those of their results."""

import subprocess
import sys
from pathlib import Path

REPORT = Path(__file__).parents[2] / "benchmarks" / "report.py"


def test_the_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, REPORT, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
