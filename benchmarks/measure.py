"""What all benchmarks share: the machine, a measured child process, and where results go.

A result is one JSON file in `benchmarks/results/` with machine, versions and commit;
`report.py` makes the tables of `benchmarks/README.md` from them.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"

POLL_S = 0.05
"""Between two looks whether a process has ended."""

LOOK_S = 0.2
"""Between two looks at the memory of its tree, and `LOOK_SHARE` of the time at most: adding up the
pages of a gigabyte takes tenths of a second, and the process waits for its memory meanwhile."""

LOOK_SHARE = 0.01

PACKAGES = ("wsiseg", "numpy", "torch", "onnxruntime", "shapely", "orjson", "simplejpeg")


@dataclass(frozen=True, slots=True)
class Used:
    """What a process and all its children took."""

    wall_s: float
    cpu_s: float
    """User and system time."""

    peak_mb: float
    """Largest sum over the tree, pages shared between its processes counted once."""

    output: str
    """What it printed to stdout."""

    failure: str | None
    """The last lines of stderr of a process that did not exit with 0."""

    def to_dict(self) -> dict[str, float]:
        return {
            "wall_s": round(self.wall_s, 2),
            "cpu_s": round(self.cpu_s, 2),
            "peak_mb": round(self.peak_mb),
        }

    def last_json(self) -> dict[str, Any]:
        """Return the last line that was printed, which benchmark children make a JSON object."""
        if self.failure is not None:
            raise RuntimeError(self.failure)
        return json.loads(self.output.strip().splitlines()[-1])


def run(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout_s: float = 3600
) -> Used:
    """Run a command and measure it with everything it starts (Linux)."""
    # Files, not pipes: nobody empties a pipe while we wait for the process.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        peak, next_look = 0.0, started
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            now = time.perf_counter()
            if now >= next_look:
                peak = max(peak, _tree_mb(process.pid))
                looked = time.perf_counter() - now
                next_look = now + max(LOOK_S, looked / LOOK_SHARE)
            if now - started > timeout_s:
                _kill_tree(process.pid)
            time.sleep(POLL_S)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output, errors = (_read(stream) for stream in (out, err))
    failure = None
    if process.returncode:
        failure = "\n".join([f"exit {process.returncode}", *errors.strip().splitlines()[-8:]])
    peak = max(peak, usage.ru_maxrss * 1024 / 1e6)  # of the largest one process, between the looks
    return Used(wall, usage.ru_utime + usage.ru_stime, peak, output, failure)


def _tree_mb(pid: int) -> float:
    import psutil

    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    except psutil.NoSuchProcess:
        return 0.0
    return total / 1e6


def _kill_tree(pid: int) -> None:
    import psutil

    try:
        root = psutil.Process(pid)
        for process in (*root.children(recursive=True), root):
            process.kill()
    except psutil.NoSuchProcess:
        pass


def _read(stream: Any) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def rss_mb() -> float:
    """Return the resident megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def reset_peak() -> None:
    """Let `peak_mb` count from here (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the largest resident megabytes of this process since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmHWM in /proc/self/status; needs Linux")


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "ahead_of_others": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
    }


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the git commit, marked where the code in the tree differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "wsiseg", "cli")
    return f"{head}, changed" if changed else head


def save(name: str, content: Mapping[str, Any], *, packages: Sequence[str] = PACKAGES) -> Path:
    """Write `results/<name>.json` and return its path; call `machine` first for the load before."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(packages),
        "command": " ".join(["python", *_relative(sys.argv)]),
        **content,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _relative(arguments: Sequence[str]) -> list[str]:
    path = Path(arguments[0]).resolve()
    script = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)
    return [script.as_posix(), *(Path(a).name if "/" in a else a for a in arguments[1:])]
