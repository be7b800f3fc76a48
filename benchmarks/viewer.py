"""Seconds until the viewer's link and its first tile, and how long tiles take over loopback.

python benchmarks/viewer.py OUT [--requests 300] [--at-once 60]

OUT is the result of a large slide; `wsiseg view` is started as its users start it, twice: first
with an empty cache, then with what the first start kept there. Objects are asked for with the first
tile, as the page does, so that many of them are being read meanwhile. Tiles are drawn by chance
from all levels of the slide, each asked for once: none is in a cache of the viewer's.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from urllib.parse import urlsplit

import measure

MANY = 100_000
"""Objects above which the result goes to a file of its own."""

COMMAND = "from wsiseg_cli.main import main; main()"


class Client:
    """Requests by the link, over connections that stay open, one for each thread."""

    def __init__(self, link: str) -> None:
        self._place = urlsplit(link)
        self._kept = local()

    def get(self, path: str) -> tuple[int, bytes]:
        if not hasattr(self._kept, "connection"):
            self._kept.connection = http.client.HTTPConnection(self._place.netloc, timeout=120)
        self._kept.connection.request("GET", self._place.path + path)
        answer = self._kept.connection.getresponse()
        return answer.status, answer.read()

    def json(self, path: str) -> dict:
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def timed(self, path: str) -> tuple[float, int]:
        """Return milliseconds and the status."""
        started = time.perf_counter()
        status, _ = self.get(path)
        return (time.perf_counter() - started) * 1000, status


def slide_tiles(about: dict, rng: random.Random) -> list[str]:
    """Return the paths of all tiles of a slide, in an order by chance."""
    size = about["tile"]
    paths = [
        f"api/0/slide/{level}/{row}/{column}"
        for level, (width, height, _) in enumerate(about["slide"]["levels"])
        for row in range(-(-height // size))
        for column in range(-(-width // size))
    ]
    rng.shuffle(paths)
    return paths


def outline_tiles(about: dict, rng: random.Random, count: int) -> list[str]:
    """Return the paths of outline tiles of all levels, drawn by chance."""
    (width, height), levels = about["outlines"]["size"], about["outlines"]["levels"]
    paths = set()
    for _ in range(count):
        halvings = rng.randrange(levels)
        row, column = (rng.randrange((n >> halvings) // about["tile"] + 1) for n in (height, width))
        if row * about["tile"] < -(-height >> halvings) and column * about["tile"] < -(
            -width >> halvings
        ):
            paths.add(f"api/0/outlines/annotations/{levels - 1 - halvings}/{row}/{column}")
    return sorted(paths)


def row(start: str, what: str, found: list[tuple[float, int]]) -> dict:
    """Return percentiles in milliseconds, and how many requests failed."""
    times = sorted(ms for ms, _ in found)
    return {
        "start": start,
        "tiles": what,
        "requests": len(times),
        "failed": sum(status != 200 for _, status in found),
        "median, ms": round(statistics.median(times), 1),
        "95 %, ms": round(times[int(0.95 * (len(times) - 1))], 1),
        "slowest, ms": round(times[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=60)
    args = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory() as home:
        first, again = (started(name, home, args) for name in ("first", "again"))
    found = {**first, "rows": first["rows"] + again["rows"], "objects_again_s": again["objects_s"]}
    print(json.dumps(found, indent=2))
    name = "viewer-many" if found["objects"] > MANY else "viewer"
    print(measure.save(name, {"load_before": load, **found}))


def started(name: str, home: str, args: argparse.Namespace) -> dict:
    """Return what one start of the viewer gives."""
    began = time.perf_counter()
    command = [sys.executable, "-c", COMMAND, "view", str(args.out), "--no-browser"]
    environment = {**os.environ, "WSISEG_HOME": home}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as viewer:
        try:
            link = viewer.stdout.readline().strip()
            link_s = time.perf_counter() - began
            return {"link_s": round(link_s, 2), **measured(name, Client(link), args)}
        finally:
            viewer.terminate()


def measured(start: str, client: Client, args: argparse.Namespace) -> dict:
    started = time.perf_counter()
    about = client.json("api/0")
    levels = len(about["slide"]["levels"])
    assert client.get("api/0/slide/0/0/0")[0] == 200
    first_tile_s = time.perf_counter() - started
    started = time.perf_counter()
    client.get("api/0/objects/annotations")
    reading = ThreadPoolExecutor(1).submit(seconds_until_ready, client, started)
    rng = random.Random(0)
    paths = slide_tiles(about, rng)
    alone = [client.timed(path) for path in paths[: args.requests]]
    with ThreadPoolExecutor(6) as browser:  # as many connections as browsers open
        together = list(browser.map(client.timed, paths[args.requests : 2 * args.requests]))
    with ThreadPoolExecutor(args.at_once) as crowd:
        crowded = list(crowd.map(client.timed, paths[2 * args.requests : 3 * args.requests]))
    objects_s = reading.result()
    drawn = [client.timed(path) for path in outline_tiles(about, rng, args.requests)]
    width, height = about["size"]
    return {
        "slide": f"{width:,} x {height:,} px, {levels} levels",
        "objects": client.json("api/0/objects/annotations")["count"],
        "first_tile_s": round(first_tile_s, 3),
        "objects_s": round(objects_s, 2),
        "rows": [
            row(start, "one after the other", alone),
            row(start, "6 at once, as a browser asks", together),
            row(start, f"{args.at_once} at once", crowded),
            row(start, "outlines, one after the other", drawn),
        ],
    }


def seconds_until_ready(client: Client, since: float) -> float:
    """Wait for the objects, asking as seldom as the page does."""
    while not client.json("api/0/objects/annotations")["ready"]:
        time.sleep(0.1)
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
