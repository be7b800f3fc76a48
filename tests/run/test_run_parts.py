"""Parts of a slide, each made by itself: joined, they are what one process makes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from kill_chaos import content, make_model, make_slides

import wsiseg
from wsiseg.engine import Journal, Part, StageFinished, lay_out, select_tiles
from wsiseg.engine.execute import Pace
from wsiseg.engine.parts import rows_of_part
from wsiseg.options import FolderOptions, RunOptions, SegmentOptions, TissueOptions
from wsiseg.run import SlideJob, segment_folder
from wsiseg.run.leases import Leases
from wsiseg.run.parts import adopt_parts, make_part
from wsiseg.run.segment import SegmentWork
from wsiseg.run.turns import Ground
from wsiseg.tissue import find_tissue

COUNT = 3
OPTIONS = SegmentOptions(
    run=RunOptions(backend="onnxruntime", device="cpu", batch_size=6, threads=1)
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return make_slides(tmp_path_factory.mktemp("slides"), 400)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {blend: make_model(folder / blend, blend) for blend in ("crop", "gaussian")}


@pytest.fixture
def called(monkeypatch):
    """Return the numbers of patches that were predicted, batch by batch."""
    found = []
    kind = type(
        wsiseg.load_model("breast-tumour-demo", backend="onnxruntime", device="cpu").predictors[0]
    )
    inner = kind.__call__
    monkeypatch.setattr(
        kind,
        "__call__",
        lambda self, *inputs: (
            found.append(len(inputs[0])) if inputs[0].any() else None,
            inner(self, *inputs),
        )[1],
    )
    return found


def make_all(job, out, model, options=OPTIONS, *, count=COUNT):
    """Make all parts of a slide; return the tiles of each stage, and what was said of parts."""
    ground = Ground(out, "segment", SegmentWork(model, options).settings(), FolderOptions())
    loaded = wsiseg.load_model(model, backend="onnxruntime", device="cpu", threads=1)
    out.mkdir(exist_ok=True)
    with Leases(out) as leases:

        def make(part):
            return make_part(job, ground, part, loaded, options, leases, lambda _: None)

        begun = make(None)
        parts = [Part(s, i, count) for s in range(len(begun.tiles)) for i in range(count)]
        return begun.tiles, [make(part).note for part in parts]


@pytest.mark.parametrize(
    ("kind", "blend"),
    [
        ("SVS, JPEG, pyramid", "gaussian"),
        pytest.param("SVS, one level", "crop", marks=pytest.mark.slow),
    ],
)
def test_parts_joined_are_what_one_process_makes(slides, models, tmp_path, called, kind, blend):
    slide, _ = slides[kind]
    model, alone, out = models[blend], tmp_path / "alone", tmp_path / "out"
    segment_folder([slide], model, alone, options=OPTIONS)
    batches = len(called)
    called.clear()
    job = SlideJob(str(slide), slide.name.split(".")[0])
    tiles, notes = make_all(job, out, model)
    assert min(tiles) > COUNT
    assert notes == [""] * len(notes)
    assert batches <= len(called) <= 2 * batches  # those at the seams twice, and no more
    called.clear()
    report = segment_folder([slide], model, out, options=OPTIONS)
    assert not report.failures
    assert called == []  # nothing was left to do
    assert content(out) == content(alone)
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}


def test_parts_that_are_missing_or_damaged_are_made_in_the_end(slides, models, tmp_path, called):
    slide, _ = slides["SVS, one level"]
    model, alone, out = models["crop"], tmp_path / "alone", tmp_path / "out"
    segment_folder([slide], model, alone, options=OPTIONS)
    make_all(SlideJob(str(slide), "single"), out, model)
    called.clear()
    (parts,) = out.glob(".wsiseg-run-segment-parts-*")
    shutil.rmtree(parts / "0-1-3")
    for file in (parts / "1-2-3").glob("*.blocks"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert not segment_folder([slide], model, out, options=OPTIONS).failures
    assert called
    assert content(out) == content(alone)


def test_parts_of_other_options_do_not_count(slides, models, tmp_path, called):
    slide, _ = slides["SVS, one level"]
    model, out = models["crop"], tmp_path / "out"
    job = SlideJob(str(slide), "single")
    make_all(job, out, model)
    (parts,) = out.glob(".wsiseg-run-segment-parts-*")
    inodes = {path.name: path.stat().st_ino for path in parts.iterdir()}
    make_all(job, out, model)  # nothing changed: the parts that are there stay
    assert (
        inodes.items()
        >= {
            path.name: path.stat().st_ino for path in parts.iterdir() if path.name != "begun"
        }.items()
    )
    other = replace(OPTIONS, run=replace(OPTIONS.run, batch_size=5))
    make_all(job, out, model, other, count=2)
    assert {path.name for path in parts.iterdir()} == {"begun", "0-0-2", "0-1-2", "1-0-2", "1-1-2"}


@pytest.mark.parametrize("batch", [6, pytest.param(5, marks=pytest.mark.slow)])
def test_what_an_earlier_run_has_finished_counts(slides, models, tmp_path, called, batch):
    slide, _ = slides["SVS, one level"]
    model, alone, out = models["crop"], tmp_path / "alone", tmp_path / "out"
    segment_folder([slide], model, alone, options=OPTIONS)
    batches = len(called)
    earlier = replace(OPTIONS, run=replace(OPTIONS.run, batch_size=batch))

    def end(event):
        if isinstance(event, StageFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_folder([slide], model, out, options=earlier, listen=end)
    called.clear()
    _, notes = make_all(SlideJob(str(slide), "single"), out, model)
    assert notes == [""] * len(notes)
    assert (len(called) < batches) == (batch == 6)
    called.clear()
    assert not segment_folder([slide], model, out, options=OPTIONS).failures
    assert called == []
    assert content(out) == content(alone)


def test_a_part_made_otherwise_than_it_was_begun_is_not_kept(slides, models, tmp_path, monkeypatch):
    slide, _ = slides["SVS, one level"]
    job, out = SlideJob(str(slide), "single"), tmp_path / "out"
    ground = Ground(out, "segment", SegmentWork(models["crop"], OPTIONS).settings())
    loaded = wsiseg.load_model(models["crop"], backend="onnxruntime", device="cpu", threads=1)
    out.mkdir()
    with Leases(out) as leases:
        make_part(job, ground, None, loaded, OPTIONS, leases, lambda _: None)
        monkeypatch.setattr("wsiseg.engine.resume.hardware", lambda _: "another processor")
        made = make_part(job, ground, Part(0, 0, 2), loaded, OPTIONS, leases, lambda _: None)
    assert "another processor" in made.note
    with Journal(tmp_path / "journal") as journal:
        adopt_parts(journal, job, ground)
        assert journal.is_empty


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("column", [10_000, 130])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_parts_are_all_rows_once(slides, models, turned, column, count):
    path, _ = slides["SVS, one level"]
    slide, card = wsiseg.open(path), wsiseg.load_model(models["gaussian"], device="cpu").card
    tissue = find_tissue(slide, TissueOptions())
    for s, setup in enumerate(lay_out(card, slide)):
        running = setup.runs(select_tiles(setup, tissue, 0.05))
        pace = Pace(6, 1, column, turned)
        *_, width = setup.placement.shape[::-1] if turned else setup.placement.shape
        height = setup.placement.shape[-1 if turned else 0]
        often = np.zeros((height, width), np.int64)
        for i in range(count):
            for (left, right), rows in rows_of_part(
                setup, pace, running, Part(s, i, count)
            ).items():
                often[rows, left:right] += 1
        assert (often == 1).all()
