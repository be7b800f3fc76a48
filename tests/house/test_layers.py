"""Imports point down only, torch stays in its places, and importing wsiseg costs nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    ("cli",),
    ("testing",),
    ("run", "train"),
    ("evaluate",),
    ("view",),
    ("exchange",),
    ("segmenting",),
    ("pipeline", "embedding"),
    ("scans",),
    ("result", "scan_result"),
    ("engine",),
    ("volume",),
    ("tissue", "stitch", "annotations"),
    ("source", "grid", "model"),
    ("draw", "resample"),
    ("options", "machine", "files"),
    ("geometry",),
    ("errors",),
)
"""From top to bottom; names on one line do not import each other."""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PACKAGE_ROOT = "wsiseg"
TORCH_HOMES = (
    "wsiseg/model/",
    "wsiseg/train/",
    "wsiseg/stitch/device.py",
    "wsiseg/stitch/device_volume.py",
)
TYPER_HOME = "cli/"


def modules() -> Iterator[Path]:
    yield from (ROOT / "wsiseg").rglob("*.py")
    yield from (ROOT / "cli").rglob("*.py")


def part_of(path: Path) -> str:
    """Return the layer a file belongs to: its folder, or its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "cli" if parts[0] == "cli" else parts[1]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of_import(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "wsiseg_cli":
        return "cli"
    if parts[0] == PACKAGE_ROOT and len(parts) > 1 and parts[1] in RANK:
        return parts[1]
    return None


@pytest.mark.parametrize("path", list(modules()), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path):
    here = part_of(path)
    if here in ("__init__", "bundled"):
        return  # the public names and the data
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        there = layer_of_import(name)
        if there is None or there == here:
            continue
        assert RANK[here] < RANK[there], f"{here} must not import {name}"


def test_every_folder_has_its_layer():
    folders = {p.name for p in (ROOT / "wsiseg").iterdir() if (p / "__init__.py").exists()}
    assert folders - {"bundled"} <= set(RANK)


def test_a_planted_upward_import_would_be_found():
    tree = ast.parse("from wsiseg.engine import plan\nimport wsiseg_cli.main")
    assert {layer_of_import(name) for name in imported(tree)} >= {"engine", "cli"}
    assert RANK["grid"] > RANK["engine"] > RANK["cli"]


@pytest.mark.parametrize("path", list(modules()), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_frameworks_stay_in_their_places(path: Path):
    place = path.relative_to(ROOT).as_posix()
    roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
    if roots & {"torch", "monai", "onnxruntime"}:
        assert place.startswith(TORCH_HOMES), f"{place} imports a framework"
    if roots & {"typer", "rich"}:
        assert place.startswith(TYPER_HOME), f"{place} imports typer or rich"


def loaded_after(code: str) -> set[str]:
    command = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_wsiseg_loads_nothing_heavy():
    heavy = {"torch", "dask", "openslide", "numpy", "zarr", "matplotlib", "cv2", "scipy", "shapely"}
    assert not heavy & loaded_after("import wsiseg")


def test_help_loads_nothing_heavy():
    code = (
        "from wsiseg_cli.main import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    )
    assert not {"torch", "dask", "openslide", "zarr", "cv2", "scipy"} & loaded_after(code)


def test_public_names_are_there_and_complete():
    import wsiseg

    for name in wsiseg.__all__:
        assert getattr(wsiseg, name) is not None
    assert 20 <= len(wsiseg.__all__) <= 50


def test_installed_packages_are_all_named():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = set(settings["tool"]["setuptools"]["packages"])
    there = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for p in (ROOT / "wsiseg").rglob("__init__.py")
    }
    assert named == there | {"wsiseg_cli"}
