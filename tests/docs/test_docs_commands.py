"""Every command and snippet of the documentation is taken as written; what is cheap is run."""

import ast
import importlib
import json
import re
import shlex
import shutil
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner
from wsiseg_cli.main import app

import wsiseg
from wsiseg.draw import save_png
from wsiseg.geometry import Affine
from wsiseg.model import add_model
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.scan_models import make_scan_model
from wsiseg.testing.slides import make_svs, tissue_disc
from wsiseg.volume.nifti import write_nifti

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "benchmarks/README.md", *ROOT.glob("docs/*.md"))
}

NOT_RUN = {
    "wsiseg view": "serves until it is stopped: tests/view",
    "wsiseg cluster local": "stays there until it is stopped: tests/run/test_run_cluster_start.py",
    "wsiseg cluster slurm --workers 100": "needs SLURM: tests/run/test_run_cluster_start.py",
    "wsiseg segment .* --scheduler": "needs a cluster: tests/run/test_run_cluster.py",
    "wsiseg train config.toml --out": "takes hours; short ones: tests/train, docs/notebooks",
    "wsiseg segment slides/ --model models/my-tumour": "a trained model: docs/notebooks",
    "wsiseg evaluate dataset.toml": "of a trained model: docs/notebooks",
    "wsiseg segment .*--(channel|prior) ": "several channels: tests/scans/test_scan_channels.py",
    "wsiseg segment scans/": "several channels: tests/scans/test_scan_channels.py",
    "wsiseg demo": "run by .ci/run as it stands in the README",
    "wsiseg models add h2g/": "H2G-Net's own files: tests/model_importers",
    "wsiseg segment slides/ --model h2g-net": "H2G-Net's own files: tests/model_importers",
}
"""What is only parsed, and where the like of it is run."""

INSTEAD = {"more/*.ndpi": "more/*.svs"}
"""Words that are replaced: nothing here can write NDPI."""

RUN_ELSEWHERE = {
    "docs/bring-your-model.md": "tests/model_importers/test_bring_your_model.py",
    "docs/training-volumes.md": "tests/train/test_train_scans.py",
}


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)
    return [str(block) for block in found]


def commands(block: str) -> Iterator[list[str]]:
    """Return the commands of a block of shell, without loops, redirections and variables."""
    for line in block.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=";&|>")
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            if set(word) <= set(";&|>"):
                if words and words[0] == "do":
                    words = words[1:]
                if words:
                    yield words
                words = [">"] if ">" in word else []
            else:
                words.append(word)


def all_commands(page: str) -> list[list[str]]:
    return [words for block in blocks(page, "bash") for words in commands(block)]


def of_wsiseg(words: list[str]) -> list[str] | None:
    """Return the arguments of `wsiseg`, if that is what is called."""
    words = words[1:] if words[0] == "srun" else words
    return words[1:] if words[0] == "wsiseg" else None


def inline(page: str) -> list[list[str]]:
    """Return the commands within sentences that stand for themselves."""
    found = re.findall(r"`(wsiseg [a-z][^`\n]*)`", PAGES[page])
    return [shlex.split(text) for text in found if "..." not in text and "--help" not in text]


def parse(arguments: list[str]) -> None:
    """Let the command line's own parser read the arguments; nothing is done."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("wsiseg", list(arguments))
    while hasattr(command, "resolve_command"):  # a group
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


FENCED = [
    pytest.param(arguments, id=f"{page}: {' '.join(arguments)[:70]}")
    for page in PAGES
    for words in all_commands(page)
    if (arguments := of_wsiseg(words)) is not None
]
INLINE = [
    pytest.param(words[1:], id=f"{page}: {' '.join(words)[:70]}")
    for page in PAGES
    for words in inline(page)
    if len(words) > 2
]


def test_commands_are_found():
    assert len(FENCED) > 45
    assert len(INLINE) > 15
    (loop,) = list(commands("for i in 1 2; do wsiseg segment a --out 'b c' & done; wait"))[1:2]
    assert loop == ["wsiseg", "segment", "a", "--out", "b c"]


@pytest.mark.parametrize("arguments", [*FENCED, *INLINE])
def test_the_command_line_takes_it(arguments: list[str]):
    parse(arguments)


def test_a_planted_option_would_be_found():
    with pytest.raises(Exception, match="No such option"):
        parse(["segment", "slides/", "--no-such-option"])
    with pytest.raises(Exception, match="No such command"):
        parse(["models", "ad", "PATH"])


@pytest.mark.parametrize("page", PAGES)
def test_other_programs_that_are_called_are_there(page: str):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in all_commands(page):
        if words[0] == "pip":
            named = re.findall(r"\[([a-z0-9,]+)\]", " ".join(words))
            assert set(",".join(named).split(",")) - {""} <= set(extras["optional-dependencies"])
        elif words[0] in {"python", "bash"} and words[1] != "-m":
            script = (ROOT / words[1]).read_text(encoding="utf-8")
            assert all(word in script for word in words if word.startswith("--"))
        elif words[:3] == ["python", "-m", "wsiseg.testing.fuzz"]:
            script = (ROOT / "wsiseg/testing/fuzz/__main__.py").read_text(encoding="utf-8")
            assert all(f'"{word}"' in script for word in words if word.startswith("--"))
        elif words[0] == "QuPath":
            assert (ROOT / "qupath_scripts" / words[2]).exists()


SNIPPETS = [
    pytest.param(code, id=f"{page} {number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_names_in_snippets_exist(code: str):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "wsiseg" or hasattr(wsiseg, node.attr)


@pytest.mark.parametrize("page", PAGES)
def test_files_in_pages_are_well_formed(page: str):
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "toml"):
        tomllib.loads(block)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages name, small."""
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    pixels, _ = tissue_disc((300, 400))
    slide = make_svs(here / "case.svs", pixels, levels=(1, 4), mpp=0.5)
    for name in (
        *("a.svs", "case1.svs", "slides/2.svs", "slides/HE-1.svs", "more/b.svs", "inbox/a.svs"),
        *("archive/one.svs", "moved/case.svs"),
    ):
        (here / name).parent.mkdir(exist_ok=True)
        shutil.copy(slide, here / name)
    save_png(here / "case.png", pixels)
    table = "slide,mpp\nslides/2.svs,0.5\nslides/HE-1.svs,0.5\n"
    for name in ("cases.csv", "cohort.csv"):
        (here / name).write_text(table)
    (here / "tiles.csv").write_text("minx,miny,width,height,prob_Tumor\n0,0,64,64,0.75\n")
    _models_and_scans(here)
    return here


def _models_and_scans(here: Path) -> None:
    colour = make_colour_model(here / "PATH")
    shutil.copytree(colour, here / "moved/model")
    add_model(colour, name="NAME")
    add_model(make_scan_model(here / "scan-model", full=1000.0), name="MODEL")
    values = np.zeros((16, 24, 24), np.int16)
    values[4:10, 6:16, 6:16] = 900
    affine = Affine.from_spacing((2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    write_nifti(here / "scan.nii.gz", values, affine)
    (here / "labels").mkdir()
    write_nifti(here / "labels/scan.nii.gz", (values > 0).astype(np.uint8), affine)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(set(PAGES) - set(RUN_ELSEWHERE)))
def test_the_commands_of_a_page_run(page: str, world: Path):
    _before(page, world)
    for words in all_commands(page):
        arguments = of_wsiseg(words)
        line = " ".join(words)
        if arguments is None or any(re.search(known, line) for known in NOT_RUN):
            continue
        run([re.sub(r"^/(?=shared|moved)", "", INSTEAD.get(word, word)) for word in arguments])


SNIPPETS_NOT_RUN = {"docs/exchange.md": "needs a window of napari; see tests/exchange"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_snippets_of_a_page_run(page: str, world: Path):
    if page in SNIPPETS_NOT_RUN:
        pytest.skip(SNIPPETS_NOT_RUN[page])
    _before(page, world)
    if page == "docs/volume-results.md":
        run(["segment", "scan.nii.gz", "--model", "MODEL", "--out", "out"])
    model = wsiseg.load_model("NAME")
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {"wsiseg": wsiseg, "model": model})


def _before(page: str, world: Path) -> None:
    """Make what a page takes for granted."""
    if page in {"docs/resume.md", "docs/exchange.md"}:
        run(["segment", "case.svs", "case1.svs", "--model", "PATH", "--out", "out"])
    if page in {"docs/training.md", "README.md"}:
        dataset, config = blocks("docs/training.md", "toml")
        (_, slide) = dataset.split("[[slides]]")
        others = (("b", "val"), ("c", "train"), ("d", "train"), ("e", "train"), ("f", "train"))
        for number, (name, split) in enumerate(others, 2):
            own = slide.replace('"a.', f'"{name}.').replace("p1", f"p{number}")
            dataset += "[[slides]]" + own.replace('"train"', f'"{split}"')
        (world / "dataset.toml").write_text(dataset)
        config = re.sub(r"batch = \d+", "batch = 2", config)  # a plan measures a step
        (world / "config.toml").write_text(config)
        for seed, name in enumerate("abcdef"):
            _annotated(world, name, seed)
    if page == "docs/volumes-in.md":
        affine = Affine.from_spacing((5.0, 1.0, 1.0), (-256.0, -256.0, -40.0))
        write_nifti(world / "scan.nii.gz", np.zeros((16, 512, 512), np.int16), affine)


def _annotated(world: Path, name: str, seed: int) -> None:
    """Write a slide with a looked-at region, and a tumour in it."""
    pixels, _ = tissue_disc((512, 512), seed=seed)
    make_svs(world / f"{name}.svs", pixels, mpp=0.5)
    features = []
    for class_name, size in (("Region*", 500), ("Tumour, invasive", 250)):
        ring = [[0, 0], [size, 0], [size, size], [0, size], [0, 0]]
        said = {"objectType": "annotation", "classification": {"name": class_name}}
        shape = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": shape, "properties": said})
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (world / f"{name}.geojson").write_text(text)


def run(arguments: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception!r}"
