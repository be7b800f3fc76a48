"""What processes do in the tests of leases: they must find it in a module."""

import csv
import time
from pathlib import Path

from wsiseg.run.leases import Lease, Leases
from wsiseg.run.reports import SlideReport
from wsiseg.run.tables import Tables


def take_and_wait(out, name, working):
    """Take a slide, leave some work behind, say so and wait to be killed."""
    leases = Leases(Path(out), expiry_s=60)
    lease = leases.take(name)
    (lease.folder / ".wsiseg-1@host-abc").mkdir()
    (lease.folder / "journal").write_text("half")
    Path(working).touch()
    time.sleep(60)


def compete(out, number, rounds, step_s, stranger):
    """Do everything that may be done by one process at a time, as others do."""
    leases = Leases(out / "leases", expiry_s=60)
    won = _race(leases, _meet(out, f"race-{number}"), rounds, step_s, stranger)
    (out / f"won-{number}").write_text("\n".join(won))
    _meet(out, f"count-{number}")
    for _ in range(40):
        with leases.hold("counter", wait_s=60):
            count = int((out / "counter").read_text())
            time.sleep(0.0005)
            (out / "counter").write_text(str(count + 1))
    _meet(out, f"rows-{number}")
    _add_rows(out / "tables", number, 25)
    _meet(out, f"end-{number}")  # nobody is dead before all have tried


def _race(leases, begin, rounds, step_s, stranger):
    """Try to take slide after slide, each at the moment at which all others try it."""
    won = []
    for r in range(rounds):
        while time.time() < begin + r * step_s:
            pass
        for what in ("free", "dead", "stranger"):
            name = f"{what} {r}"
            displacing = stranger if what == "stranger" else None
            if isinstance(leases.take(name, displacing=displacing), Lease):
                won.append(name)
    return won


def _meet(out, name):
    """Say that this process is ready, and return when all go on."""
    (out / name).touch()
    go = out / name.partition("-")[0]
    while not go.exists() or not go.read_text():
        time.sleep(0.005)
    return float(go.read_text())


def _add_rows(out, prefix, rows):
    """Enter rows into the tables as a run does."""
    with Leases(out, expiry_s=60) as leases:
        tables = Tables(out, leases)
        for i in range(rows):
            name = f"{prefix}-{i}"
            error = "s: broke; mend it" if i % 5 == 0 else None
            tables.add(SlideReport(name, f"{out}/{name}", {"slide": name}, error=error))
        assert tables.finish() is None


def rows_of(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
