"""A QuPath in miniature: the scripts run in a real Groovy, over hand-written fakes of its classes.

Groovy is looked for in `WSISEG_GROOVY` (folders of jars, separated as in PATH), in `GROOVY_HOME`
and where Debian's packages `groovy` and `libgoogle-gson-java` put it. QuPath has Groovy 4.0 to 5.0.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "qupath_scripts"
DEBIAN = Path("/usr/share/java")


def groovies() -> dict[str, list[Path]]:
    """Return the jars of each Groovy there is, gson with them, by name."""
    named = [Path(text) for text in os.environ.get("WSISEG_GROOVY", "").split(os.pathsep) if text]
    if home := os.environ.get("GROOVY_HOME"):
        named.append(Path(home) / "lib")
    found = {folder: sorted(folder.glob("*.jar")) for folder in named}
    found[DEBIAN] = [DEBIAN / "groovy-all.jar"]
    complete: dict[str, list[Path]] = {}
    for jars in found.values():
        core = [jar for jar in jars if re.fullmatch(r"groovy(-all)?([-0-9.]*)\.jar", jar.name)]
        gson = [] if any(jar.name.startswith("gson") for jar in jars) else [DEBIAN / "gson.jar"]
        if core and all(jar.exists() for jar in [*core, *gson]):
            complete.setdefault(core[0].resolve().stem, [*jars, *gson])
    return complete


class QuPath:
    """A Java process that runs scripts; one for all tests."""

    def __init__(self, jars: list[Path], *options: str, **environment: str) -> None:
        path = os.pathsep.join(map(str, [*jars, HERE / "fakes"]))
        java = [str(shutil.which("java")), "-Xshare:auto", "-XX:TieredStopAtLevel=1"]
        java += ["-Dfile.encoding=UTF-8", *options]
        self._process = subprocess.Popen(
            [*java, "-cp", path, "groovy.ui.GroovyMain", HERE / "runner.groovy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
            encoding="utf-8",
        )

    def run(self, world: dict[str, Any]) -> list[dict[str, Any]]:
        """Make a world, and return what became of each of its steps that runs a script."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        steps = [
            {**step, "script": str(SCRIPTS / f"{step['script']}.groovy")}
            if "script" in step
            else step
            for step in world["steps"]
        ]
        process.stdin.write(json.dumps({**world, "steps": steps}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "Groovy ended; its message is above"
        return [step for step in json.loads(line)["steps"] if step is not None]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


FOUND = groovies() if shutil.which("java") else {}
NEEDED = "needs Java and Groovy (Debian: groovy, libgoogle-gson-java), or WSISEG_GROOVY"


def started(name: str) -> Iterator[QuPath]:
    if name not in FOUND:
        pytest.skip(NEEDED)
    process = QuPath(FOUND[name])
    yield process
    process.close()


@pytest.fixture
def bare_qupath(tmp_path):
    """One whose PATH is empty, with a home folder of its own: `tmp_path / "home"`."""
    if not FOUND:
        pytest.skip(NEEDED)
    home = f"-Duser.home={tmp_path / 'home'}"
    process = QuPath(FOUND[max(FOUND, key=version)], home, PATH="", WSISEG="")
    yield process
    process.close()


def version(name: str) -> list[int]:
    """Return the numbers of a Groovy's name, to compare."""
    return [int(number) for number in re.findall(r"\d+", name)]


@pytest.fixture(scope="session")
def qupath():
    """The newest Groovy that was found."""
    yield from started(max(FOUND, key=version, default=NEEDED))


@pytest.fixture(scope="session", params=sorted(FOUND) or [NEEDED])
def every_qupath(request):
    """Each Groovy that was found."""
    yield from started(request.param)
