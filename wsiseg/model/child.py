"""Work in a process of its own: what needs torch or leaves memory behind does not stay in ours.

The parent calls `make_in_child(job, request, ...)`; the child is `python -m wsiseg.model <folder>`,
started anew and not forked, so that it works from notebooks, threads and `python -c` alike.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsiseg import errors
from wsiseg.errors import ModelError, WsisegError

__all__ = ["Job", "make_in_child", "run_module", "serve"]

Job = Callable[[dict[str, Any]], bytes]
"""From a request (what JSON can hold) to the content it asks for."""

REQUEST, MADE, ERROR = "request.json", "made", "error.json"

MAX_SECONDS = 900


def make_in_child(job: str, request: Mapping[str, Any], *, what: str) -> bytes:
    """Return what a job makes of a request, in a process of its own.

    Parameters
    ----------
    job
        A name `wsiseg.model.__main__` knows.
    request
        What JSON can hold; arrays go through files.
    what
        What messages call the work.

    Raises
    ------
    ModelError
        If the job fails; an error it raised on purpose arrives as it was.
    """
    with tempfile.TemporaryDirectory(prefix="wsiseg-") as temporary:
        folder = Path(temporary)
        content = json.dumps({"job": job, "request": dict(request)})
        (folder / REQUEST).write_text(content, encoding="utf-8")
        failure = run_module("wsiseg.model", folder, what=what)
        if (folder / ERROR).is_file():
            kind, message = json.loads((folder / ERROR).read_bytes())
            raise getattr(errors, kind)(message)
        if failure:
            raise ModelError(
                f"{what}: its process failed: {failure}; a process that was killed may have run "
                "out of memory"
            )
        return (folder / MADE).read_bytes()


def run_module(module: str, folder: Path, *, what: str) -> str:
    """Run `python -m module folder` in the folder; return why it failed, empty where it did not.

    Raises
    ------
    ModelError
        If it takes too long, or there is no Python to start.
    """
    # The child imports from where this process does, but not from the current folder.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        done = subprocess.run(
            [sys.executable or "python", "-P", "-m", module, str(folder)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{what}: took longer than {MAX_SECONDS} s and was stopped") from error
    except OSError as error:
        raise ModelError(
            f"{what}: needs a process of its own, and {sys.executable!r} cannot be started: "
            f"{error.strerror}; run it from a Python interpreter"
        ) from error
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def serve(jobs: Mapping[str, Job], folder: Path) -> int:
    """Do the job a folder asks for, as the child; return the exit code."""
    asked = json.loads((folder / REQUEST).read_bytes())
    try:
        content = jobs[asked["job"]](asked["request"])
    except WsisegError as error:
        report = json.dumps([type(error).__name__, str(error)])
        (folder / ERROR).write_text(report, encoding="utf-8")
        return 1
    (folder / MADE).write_bytes(content)
    return 0
