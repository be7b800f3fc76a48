"""Runs that are killed again and again, by SIGKILL, at moments drawn by chance.

`python tests/run/kill_chaos.py --kills 100` does so on three kinds of slides, and prints after how
many kills the result had the very bytes of a run that nobody killed. `--slide` takes a real one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from wsiseg.engine.journal import FILE
from wsiseg.engine.provenance import lasting
from wsiseg.engine.working import journal_folder
from wsiseg.run.leases import KEPT, LEASES_FOLDER
from wsiseg.run.records import RECORD
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_ome_tiff, make_svs, tissue_disc

BATCH = 6


@dataclass
class Tally:
    """What became of the runs on one slide."""

    kills: int = 0
    in_stages: int = 0
    """Kills after a block was finished, and before the result stood."""

    results: int = 0
    differing: list[str] = field(default_factory=list)


def start(slide: Path, model: Path, out: Path) -> subprocess.Popen:
    arguments = ["segment", str(slide), "-o", str(out), "--model", str(model), "--device", "cpu"]
    arguments += ["--batch", str(BATCH), "--backend", "onnxruntime", "--threads", "1", "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-c", "from wsiseg_cli.main import main; main()", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that is not killed."""
    _, stderr = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"the run failed: {stderr}")


def content(out: Path) -> dict[str, bytes]:
    """Return all files of an output folder, without times and what is of the moment."""
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }
    for name in [name for name in files if name.endswith("run.json")]:
        files[name] = orjson.dumps(lasting(json.loads(files[name])))
    files.pop("report.html")  # pictures and rows, which are compared themselves
    for name in [name for name in files if name.endswith(RECORD)]:
        record = json.loads(files[name])
        record["row"].pop("seconds")
        files[name] = orjson.dumps(record)
    rows = [line.split(",") for line in files.pop("summary.csv").decode().splitlines()]
    seconds = rows[0].index("seconds")
    files["summary.csv"] = repr([row[:seconds] + row[seconds + 1 :] for row in rows]).encode()
    return files


@dataclass(frozen=True)
class JournalPlaces:
    """Where the journal of a slide may lie: in the lease, or beside the result's place."""

    slide: Path
    out: Path

    def __iter__(self) -> Iterator[Path]:
        yield journal_folder(self.out, self.slide.name.split(".")[0], "segment") / FILE
        yield from self.out.glob(f"{LEASES_FOLDER}/*/*/{KEPT}/{FILE}")


def lines(journal: JournalPlaces) -> int:
    with suppress(OSError):  # folders go while they are looked through
        for path in journal:
            if path.exists():
                return path.read_bytes().count(b"\n")
    return 0


def kill(
    process: subprocess.Popen, journal: JournalPlaces, after_lines: int, after_s: float
) -> bool:
    """Kill a run once its journal has so many lines, and some time later; tell if it lived."""
    while process.poll() is None and lines(journal) < after_lines:
        time.sleep(0.001)
    time.sleep(after_s)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive and process.returncode == -signal.SIGKILL


def chaos(slide: Path, model: Path, folder: Path, *, kills: int, seed: int = 0) -> Tally:
    """Kill runs on a slide until enough were; every few kills one may end, and is compared."""
    rng, tally = random.Random(seed), Tally()
    seconds, whole = undisturbed(slide, model, folder / "alone")
    expected, out = content(folder / "alone"), folder / "out"
    journal = JournalPlaces(slide, out)
    while tally.kills < kills:
        for _ in range(rng.randint(1, 5)):
            if tally.kills == kills:
                break
            by_time = rng.random() < 0.3
            least = 0 if by_time else rng.randint(min(lines(journal), whole), whole)
            wait = rng.uniform(0, seconds) if by_time else rng.uniform(0, 0.02)
            if kill(start(slide, model, out), journal, least, wait):
                tally.kills += 1
                tally.in_stages += lines(journal) > 1
        finish(start(slide, model, out))
        tally.results += 1
        found = content(out)
        names = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        tally.differing += names
        shutil.rmtree(out)
    return tally


def undisturbed(slide: Path, model: Path, out: Path) -> tuple[float, int]:
    """Run once; return the seconds, and the lines of the journal, which goes at the end."""
    started, most = time.perf_counter(), 0
    process, journal = start(slide, model, out), JournalPlaces(slide, out)
    while process.poll() is None:
        most = max(most, lines(journal))
        time.sleep(0.001)
    finish(process)
    return time.perf_counter() - started, most


def make_slides(folder: Path, size: int) -> dict[str, tuple[Path, str]]:
    """Return three kinds of slides, and how the second stage puts its tiles together."""
    pixels, _ = tissue_disc((size, size * 4 // 3), radius=size * 0.4)
    return {
        "SVS, JPEG, pyramid": (
            make_svs(folder / "pyramid.svs", pixels, levels=(1, 4), tile=128, mpp=0.5),
            "gaussian",
        ),
        "OME-TIFF": (make_ome_tiff(folder / "image.ome.tiff", pixels, mpp=(0.5, 0.5)), "crop"),
        "SVS, one level": (
            make_svs(folder / "single.svs", pixels, levels=(1,), tile=128, mpp=0.5),
            "crop",
        ),
    }


def make_model(folder: Path, blend: str) -> Path:
    return make_colour_model(
        folder, patch=32, stride=16, refine_um=1.0, window=64, halo=8, blend=blend
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--size", type=int, default=900, help="pixels of the slides' height")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.setdefault("WSISEG_HOME", str(folder / "home"))
        failed = False
        slides = make_slides(folder, options.size)
        for number, (kind, (slide, blend)) in enumerate(slides.items()):
            share = options.kills // 3 + (number < options.kills % 3)
            work = folder / slide.name.split(".")[0]
            tally = chaos(
                slide,
                make_model(work / "model", blend),
                work,
                kills=share,
                seed=options.seed + number,
            )
            text = f"{kind}: {tally.kills} kills ({tally.in_stages} within stages), "
            text += f"{tally.results} results, {len(tally.differing)} files differ"
            print(text, *tally.differing, flush=True)  # noqa: T201 - a command
            failed |= bool(tally.differing)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
