"""What holds for all scripts: their texts, and that every Groovy takes them."""

import re

import pytest
from shared_blocks import SCRIPTS, SOURCE, blocks, updated

ALL = sorted(SCRIPTS.glob("*.groovy"))
NOT_EVERYWHERE = {
    "groovy.json": r"\bgroovy\.json\b|JsonSlurper",  # QuPath has no groovy-json
    "lambdas": r"->\s*$^\s*\{|\)\s*->",
    "not in": r"!in\b|!instanceof\b",
    "var": r"^\s*var\s",
    "elvis assignment": r"\?=",
    "try with resources": r"\btry\s*\(",
}
"""What Groovy 2.4 to 5.0, as far as QuPath has them, do not all take or have."""


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_shared_parts_are_the_same(path):
    text = path.read_text(encoding="utf-8")
    assert "image" in blocks(text)
    assert updated(text, SOURCE.read_text(encoding="utf-8")) == text, (
        "run `python tests/qupath_scripts/shared_blocks.py`"
    )


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_head_tells_how_to_use_it(path):
    head = path.read_text(encoding="utf-8").partition("*/")[0]
    for needed in ("QuPath 0.5", "Script editor", "QuPath script " + path.name):
        assert needed in head


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
@pytest.mark.parametrize("what", NOT_EVERYWHERE)
def test_only_what_every_version_takes(path, what):
    code = path.read_text(encoding="utf-8").partition("*/")[2]
    assert not re.search(NOT_EVERYWHERE[what], code, re.MULTILINE)


def test_all_scripts_are_there():
    assert [path.stem for path in ALL] == [
        "export_annotations", "export_regions", "import_annotations", "run_wsiseg", "show_heatmap"
    ]  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_groovy_takes_them(every_qupath, path):
    run = {"script": path.stem}
    (done,) = every_qupath.run({"images": [], "open": None, "folder": None, "steps": [run]})
    needed = "no image is open" if path.stem not in {"import_annotations"} else "results ="
    assert needed in done["error"] or "say in the settings" in done["error"], done
