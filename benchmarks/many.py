"""Many slides over several processes: some are killed all the time; storage is slow.

    python benchmarks/many.py kills   [--slides 200 --processes 4 --every 10]
    python benchmarks/many.py scaling [--slides 48 --latency-ms 40 --mb-per-s 4]

`kills`: `wsiseg segment` four times on one output folder, once undisturbed and once with a process
killed every so often (SIGKILL, then started anew). Counts how often each slide was done, and
compares all annotations with those of the undisturbed run. `scaling`: the same folder with 1, 2 and
4 processes, from the disk and from a server on this machine that answers late and slowly. Slides
are copies of a bundled one; the model is the bundled one.
"""

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import measure

SLIDE = "OS-1-detail.ome.tif"
COMMAND = [sys.executable, "-c", "from wsiseg_cli.main import main; main()", "segment"]


@dataclass
class Fleet:
    """Processes that share an output folder, each with a file that gets what it prints."""

    slides: Sequence[str]
    out: Path
    logs: Path
    threads: int = 1
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Start a process."""
        options = ["--out", self.out, "--threads", self.threads, "--device", "cpu"]
        options += ["--backend", "onnxruntime", "--json", "--quiet"]
        name = self.logs / f"{len(self.started)}"
        with name.with_suffix(".out").open("wb") as log, name.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [*COMMAND, *self.slides, *map(str, options)], stdout=log, stderr=err
            )
        self.started.append(process)
        return process

    def errors(self) -> str:
        """Return the last lines that the processes printed to stderr."""
        return "; ".join(log.read_text()[-300:] for log in self.logs.glob("*.err"))

    def failed(self) -> int:
        """Return how many slides are told to have failed."""
        table = self.out / "failures.csv"
        return len(table.read_text().splitlines()) - 1 if table.exists() else 0

    def done(self) -> Counter[str]:
        """Return how often each slide was done, as the processes say."""
        found: Counter[str] = Counter()
        for log in self.logs.glob("*.out"):
            for line in log.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # cut off by a kill
                    row = json.loads(line)
                    found[row["folder"]] += row["state"] == "done"
        return found


def run(fleet: Fleet, processes: int, every_s: float | None, seed: int = 0) -> tuple[float, int]:
    """Run to the end; return the seconds and how many processes were killed."""
    fleet.logs.mkdir(parents=True)
    begun = last = time.perf_counter()
    kills, draw = 0, random.Random(seed)
    alive = [fleet.start() for _ in range(processes)]
    while any(process.poll() is None for process in alive):
        time.sleep(0.05)
        now = time.perf_counter()
        if every_s is None or now - last < every_s:
            continue
        victim = draw.randrange(processes)
        if alive[victim].poll() is None:
            alive[victim].kill()
            alive[victim].wait()
            alive[victim] = fleet.start()
            kills += 1
        last = now
    if not all(process.returncode in {0, 1} for process in alive):
        raise RuntimeError(f"{[process.returncode for process in alive]}: {fleet.errors()}")
    return time.perf_counter() - begun, kills


def annotations(out: Path) -> dict[str, bytes]:
    """Return the annotations of each slide, by its folder."""
    return {path.parent.name: path.read_bytes() for path in out.glob("*/annotations.geojson")}


def copies(folder: Path, count: int) -> list[str]:
    """Return paths of so many slides."""
    folder.mkdir(parents=True)
    original = Path(str(files("wsiseg.bundled"))) / "slides" / SLIDE
    return [str(shutil.copy(original, folder / f"s{i:04}.ome.tif")) for i in range(count)]


def kills(args: argparse.Namespace, folder: Path) -> None:
    before = measure.machine()
    slides = copies(folder / "in", args.slides)
    calm = Fleet(slides, folder / "calm", folder / "calm.log")
    calm_s, _ = run(calm, args.processes, None)
    rough = Fleet(slides, folder / "rough", folder / "rough.log")
    rough_s, killed = run(rough, args.processes, args.every)
    done, made, expected = rough.done(), annotations(rough.out), annotations(calm.out)
    rows = [
        {
            "slides": args.slides,
            "processes": args.processes,
            "killed": killed,
            "undisturbed, s": round(calm_s, 1),
            "with kills, s": round(rough_s, 1),
            "ratio": round(rough_s / calm_s, 3),
            "failed": rough.failed(),
            "lost": len(expected.keys() - made.keys()),
            "done twice": sum(count > 1 for count in done.values()),
            "other bytes": sum(made.get(name) != data for name, data in expected.items()),
        }
    ]
    print(json.dumps(rows[0]))
    measure.save("many-kills", {"load_before": before["load"], "rows": rows})


class SlowFiles(BaseHTTPRequestHandler):
    """Gives parts of files of a folder, late and slowly: one pipe for all who ask."""

    protocol_version = "HTTP/1.1"
    pipe = threading.Lock()

    def __init__(self, folder: Path, latency_s: float, bytes_per_s: float, *args: object) -> None:
        self.folder, self.latency_s, self.bytes_per_s = folder, latency_s, bytes_per_s
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(self.latency_s)
        path = self.folder / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        data, wanted = path.read_bytes(), self.headers.get("Range")
        start, stop = 0, len(data)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hash(data):x}"')
        self.send_header("Content-Length", str(stop - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if body:
            with self.pipe:
                time.sleep((stop - start) / self.bytes_per_s)
            self.wfile.write(data[start:stop])


@contextlib.contextmanager
def slow_server(folder: Path, latency_ms: float, mb_per_s: float) -> Iterator[str]:
    """Serve a folder on this machine; gives its URL."""
    handler = partial(SlowFiles, folder, latency_ms / 1e3, mb_per_s * 1e6)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def scaling(args: argparse.Namespace, folder: Path) -> None:
    before = measure.machine()
    slides = copies(folder / "in", args.slides)
    rows = []
    with slow_server(folder / "in", args.latency_ms, args.mb_per_s) as url:
        remote = [f"{url}/{Path(path).name}" for path in slides]
        for storage, names in (("disk", slides), ("slow", remote)):
            first = None
            for processes in (1, 2, 4):
                at = folder / f"{storage}-{processes}"
                fleet = Fleet(names, at / "out", at / "log")
                seconds, _ = run(fleet, processes, None)
                first = first or seconds
                rows.append(
                    {
                        "storage": storage,
                        "processes": processes,
                        "seconds": round(seconds, 1),
                        "slides per min": round(60 * len(names) / seconds, 1),
                        "times one process": round(first / seconds, 2),
                        "done twice": sum(count > 1 for count in fleet.done().values()),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    slow = {"latency_ms": args.latency_ms, "mb_per_s": args.mb_per_s}
    content = {"load_before": before["load"], "slides": args.slides, "slow": slow, "rows": rows}
    measure.save("many-scaling", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "scaling"])
    parser.add_argument("--slides", type=int)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--every", type=float, default=10, help="seconds between two kills")
    parser.add_argument("--latency-ms", type=float, default=40)
    parser.add_argument("--mb-per-s", type=float, default=4)
    args = parser.parse_args()
    args.slides = args.slides or {"kills": 200, "scaling": 48}[args.what]
    with tempfile.TemporaryDirectory() as name:
        {"kills": kills, "scaling": scaling}[args.what](args, Path(name))


if __name__ == "__main__":
    main()
