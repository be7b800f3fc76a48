"""A run that was ended goes on: the same bytes, and nothing done twice."""

import gc
import json
import logging
import os
import shutil
from dataclasses import replace

import numpy as np
import orjson
import pytest

import wsiseg
from wsiseg.engine import Journal, journal
from wsiseg.engine import plan as plan_module
from wsiseg.engine.decoding import DecodingChoice
from wsiseg.engine.provenance import lasting
from wsiseg.model import Model, load
from wsiseg.model.predictor import Predictor
from wsiseg.model.tuning import Tuning
from wsiseg.options import (
    EmbedOptions,
    ExportOptions,
    RunOptions,
    SegmentOptions,
    TissueOptions,
    UncertaintyOptions,
)
from wsiseg.testing.models import make_colour_model, make_embedding_model
from wsiseg.testing.slides import make_svs, tissue_disc

SHAPE = (520, 760)
RUN = RunOptions(batch_size=5, threads=2)
OPTIONS = SegmentOptions(run=RUN)


def with_run(**changes):
    return replace(OPTIONS, run=replace(RUN, **changes))


class Killed(BaseException):
    """The end of a process, as far as a process can play it."""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        gc.freeze()  # as the command line does: runs look for garbage in what is new alone
        yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    pixels, _ = tissue_disc(SHAPE, center=(240, 400), radius=180)
    folder = tmp_path_factory.mktemp("slides")
    return make_svs(folder / "disc.svs", pixels, levels=(1, 4), tile=128, mpp=0.5)


SIZES = {"patch": 32, "stride": 16, "refine_um": 1.0, "window": 64, "halo": 8}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "crop": counted(make_colour_model(folder / "crop", **SIZES)),
        "gaussian": counted(make_colour_model(folder / "gaussian", **SIZES, blend="gaussian")),
        "whole": counted(make_colour_model(folder / "whole", **SIZES, extent="whole")),
        "vectors": counted(make_embedding_model(folder / "vectors", patch=32, stride=16)),
    }


class Counting(Predictor):
    """A predictor that counts its batches, but for those of zeros that the plan times.

    What it says of a patch depends on its place in the batch, as the last bits of a library may.
    """

    def __init__(self, inner, counts):
        self.inner, self.counts = inner, counts

    def for_workers(self, workers, threads):
        return Counting(self.inner.for_workers(workers, threads), self.counts)

    def rest(self):
        self.inner.rest()

    def __call__(self, *inputs):
        if any(array.any() for array in inputs):
            self.counts.append(len(inputs[0]))
        raw = self.inner(*inputs)
        raw[..., -1] += 0.3 * np.arange(len(raw)).reshape(-1, *[1] * (raw.ndim - 2))
        return raw


def counted(package) -> Model:
    model = wsiseg.load_model(package, backend="onnxruntime")
    return replace(model, predictors=tuple(Counting(p, []) for p in model.predictors))


def batches(model) -> list[int]:
    """Return the batches of each stage since the last call."""
    counts = [len(predictor.counts) for predictor in model.predictors]
    for predictor in model.predictors:
        predictor.counts.clear()
    return counts


def run(slide_path, model, folder=None, options=OPTIONS):
    """Return a result, of a run that goes on in a folder where one is given."""
    do = wsiseg.embed if isinstance(options, EmbedOptions) else wsiseg.segment
    if folder is None:
        return do(slide_path, model, options=options)
    with Journal(folder) as kept:
        return do(slide_path, model, options=options, journal=kept)


def content(result, out):
    """Return the bytes of every file a result writes, and what lasts of its record."""
    folder = result.write(out)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    record = lasting(json.loads(files.pop("run.json")))
    return files | {"run.json": orjson.dumps(record)}


def stores(result):
    """Return the bytes of every file of the heatmaps and the mask, or of the vectors."""
    vectors = hasattr(result, "store")
    made = [result.store] if vectors else [*result.heatmaps.values(), result.labels]
    made += [] if vectors else result.uncertainty.values()
    return {
        path.relative_to(store.path.parent).as_posix(): path.read_bytes()
        for store in made
        for path in store.path.rglob("*")
        if path.is_file()
    }


def kill_at(patch, calls, *, torn):
    """End the process at a write of the journal, in the middle of it or before."""
    write, left = journal._write_all, [calls]

    def ending(file, data):
        left[0] -= 1
        if left[0] == 0:
            if torn:
                os.write(file, data[: len(data) // 2])
            raise Killed
        if left[0] < 0:
            raise Killed
        write(file, data)

    patch.setattr(journal, "_write_all", ending)


def killed_and_resumed(slide_path, model, folder, options=OPTIONS):
    """Run until the end, killed again and again; return the result and the kills."""
    for kills in range(100):
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, (15, 11, 40)[kills % 3], torn=kills % 2 == 0)
            try:
                return run(slide_path, model, folder, options), kills
            except Killed:
                continue
    raise AssertionError("a run that is killed gets nowhere")


def lost_at_most(plan):
    """Return the batches that a kill may cost: a row of tiles, those it overlaps, those ahead."""
    lost = []
    for stage, setup in zip(plan.stages, plan.setups, strict=True):
        grid = setup.grid.turned if stage.pace.turned else setup.grid
        rows = 1 + -(-grid.overlap[0] // grid.stride[0])
        row = -(-grid.counts[1] // stage.batch_size) + 1
        lost.append(rows * row + stage.pace.batches_ahead + 3)
    return max(lost)


VARIANTS = {
    "rows": ("crop", {}, OPTIONS),
    "blended columns": ("gaussian", {"FRONT_BYTES": 1}, OPTIONS),
    "a view of the whole slide": ("whole", {}, OPTIONS),
    "skipping": ("gaussian", {}, with_run(skip_below=0.3)),
    "layers of uncertainty": (
        "gaussian",
        {"FRONT_BYTES": 1},
        replace(OPTIONS, uncertainty=UncertaintyOptions(layers=("entropy", "overlap"))),
    ),
    "vectors in columns": ("vectors", {"FRONT_BYTES": 1}, EmbedOptions(run=RUN)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_any_write_the_bytes_are_the_same(
    slide_path, models, tmp_path, monkeypatch, variant
):
    name, limits, options = VARIANTS[variant]
    model = models[name]
    for limit, value in limits.items():
        monkeypatch.setattr(plan_module, limit, value)
    batches(model)
    alone = run(slide_path, model, options=options)
    expected, needed = stores(alone), sum(batches(model))
    if limits:
        assert alone.plan.stages[0].columns > 1
    result, kills = killed_and_resumed(slide_path, model, tmp_path / "w", options)
    assert kills >= 2
    assert stores(result) == expected
    assert needed <= sum(batches(model)) <= needed + kills * lost_at_most(result.plan)
    again = run(slide_path, model, tmp_path / "w", options)
    assert batches(model) == [0] * len(model.predictors)
    assert stores(again) == expected
    if hasattr(again, "uncertainty"):
        assert [r.uncertainty for r in again.reports] == [r.uncertainty for r in alone.reports]
    reports = again.reports if hasattr(again, "reports") else [again.report]
    assert [report.kept for report in reports] == [report.tiles for report in reports]


@pytest.mark.parametrize("limits", [{}, {"FRONT_BYTES": 1}])
def test_layers_of_uncertainty_go_on_as_well(slide_path, models, tmp_path, monkeypatch, limits):
    for limit, value in limits.items():
        monkeypatch.setattr(plan_module, limit, value)
    layers = UncertaintyOptions(layers=("entropy", "overlap", "tta"), tta_views=4)
    options = replace(OPTIONS, uncertainty=layers)
    alone = run(slide_path, models["gaussian"], options=options)
    result, kills = killed_and_resumed(slide_path, models["gaussian"], tmp_path / "w", options)
    assert kills >= 2
    assert content(result, tmp_path / "resumed") == content(alone, tmp_path / "alone")
    assert result.reports[-1].uncertainty == alone.reports[-1].uncertainty
    other = replace(options, uncertainty=replace(layers, layers=("tta",)))
    result = run(slide_path, models["gaussian"], tmp_path / "w", other)
    assert result.reports[-1].kept == 0  # of the last stage; the first goes on
    assert result.reports[0].kept == result.reports[0].tiles


class OnDevice(Counting):
    """A predictor whose results stay where they are."""

    device = "cuda:0"

    def for_workers(self, workers, threads):
        return OnDevice(self.inner.for_workers(workers, threads), self.counts)

    def stream_on_device(self, batches):
        import torch

        for batch in batches:
            yield torch.from_numpy(self(*batch))


def test_what_a_device_has_finished_is_kept(slide_path, models, tmp_path, monkeypatch):
    """The stitcher of a GPU, with this CPU in its place."""
    from wsiseg.stitch import device

    made = []

    class Here(device.DeviceStitcher):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "device": "cpu"})
            made.append(self)

    monkeypatch.setattr(device, "DeviceStitcher", Here)
    inner = models["gaussian"].predictors
    model = replace(models["gaussian"], predictors=tuple(OnDevice(p.inner, []) for p in inner))
    expected = stores(run(slide_path, model))
    needed = sum(batches(model))
    result, kills = killed_and_resumed(slide_path, model, tmp_path / "w")
    assert kills >= 2
    assert len(made) > 2
    assert stores(result) == expected
    assert sum(batches(model)) <= needed + kills * lost_at_most(result.plan)


@pytest.mark.parametrize("event", ["TilesDone", "StageFinished"])
def test_killed_at_any_event_the_bytes_are_the_same(slide_path, models, tmp_path, whole_run, event):
    model, expected, heard = models["gaussian"], whole_run[1], 0

    def listen(what):
        nonlocal heard
        heard += type(what).__name__ == event
        if heard == (1 if event == "StageFinished" else 9):
            raise Killed

    with pytest.raises(Killed), Journal(tmp_path / "w") as kept:
        wsiseg.segment(slide_path, model, options=OPTIONS, journal=kept, listen=listen)
    assert content(run(slide_path, model, tmp_path / "w"), tmp_path / "killed") == expected


@pytest.fixture(scope="module")
def whole_run(slide_path, models, tmp_path_factory):
    """A journal of a whole run, its files, and the batches of its stages."""
    model, folder = models["gaussian"], tmp_path_factory.mktemp("finished")
    batches(model)
    result = run(slide_path, model, folder / "w")
    return folder / "w", content(result, folder / "out"), batches(model)


@pytest.fixture
def finished(whole_run, tmp_path):
    """The same, in a folder of its own."""
    folder, files, count = whole_run
    shutil.copytree(folder, tmp_path / "w")
    return files, count


def damage(folder, stage, block):
    """Change a byte in the middle of a block of a stage."""
    (path,) = folder.glob(f"{stage}-*.blocks")
    text = (folder / journal.FILE).read_text()
    lines = [json.loads(line.split(" ", 1)[1]) for line in text.splitlines()]
    own = [line["at"] for line in lines if line.get("of") == path.stem.rpartition("-")[2]]
    offset, size = own[block]
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_block_is_made_again_and_no_other(slide_path, models, tmp_path, finished):
    model, (expected, (all_first, all_second)) = models["gaussian"], finished
    batches(model)
    damage(tmp_path / "w", "patches", 8)
    damage(tmp_path / "w", "refine", 11)
    with wsiseg.open(slide_path) as slide:
        result = run(slide, model, tmp_path / "w")
        assert slide.reads.decoded < 30  # of as many at level 0, and those of the tissue detector
        assert content(result, tmp_path / "killed") == expected
    first, second = batches(model)
    assert 0 < first <= all_first / 5
    assert 0 < second <= all_second / 2


def test_a_changed_slide_is_done_anew(slide_path, models, tmp_path, finished, caplog):
    pixels, _ = tissue_disc(SHAPE, center=(240, 400), radius=180, seed=1)
    other = make_svs(tmp_path / "disc.svs", pixels, levels=(1, 4), tile=128, mpp=0.5)
    model = models["gaussian"]
    with caplog.at_level(logging.INFO, "wsiseg.engine.resume"):
        result = run(other, model, tmp_path / "w")
    assert all(batches(model))
    assert "patches starts over; changed: slide" in caplog.text
    assert stores(result) == stores(run(other, model))


@pytest.mark.parametrize(
    ("options", "again", "changed"),
    [
        (replace(OPTIONS, export=ExportOptions(min_area_um2=9.0, compress=True)), (0, 0), ""),
        (with_run(threads=1), (0, 0), ""),
        (with_run(memory_bytes=10**12), (0, 0), ""),
        (with_run(batch_size=None), (0, 0), ""),  # as the first run had it
        (with_run(batch_size=7), (1, 1), "batch size"),
        (with_run(skip_below=0.3), (0, 1), "skip_below"),
        (replace(OPTIONS, tissue=TissueOptions(detector="none")), (1, 1), "tiles with tissue"),
        # other options, the same tiles
        (replace(OPTIONS, tissue=TissueOptions(min_speck_um2=9_000.0)), (0, 0), ""),
    ],
)
def test_an_option_invalidates_what_depends_on_it(
    slide_path, models, tmp_path, finished, caplog, options, again, changed
):
    model = models["gaussian"]
    batches(model)
    with caplog.at_level(logging.INFO, "wsiseg.engine.resume"):
        result = run(slide_path, model, tmp_path / "w", options)
    assert tuple(map(bool, batches(model))) == again
    assert changed in caplog.text
    assert ("starts over" in caplog.text) == any(again)
    if any(again):
        assert stores(result) == stores(run(slide_path, model, options=options))


def test_a_new_second_stage_keeps_the_heatmap_of_the_first(
    slide_path, models, tmp_path, finished, caplog
):
    """The halo of the second stage differs, and nothing of the first."""
    other = counted(make_colour_model(tmp_path / "m", **SIZES | {"halo": 4}, blend="gaussian"))
    with caplog.at_level(logging.INFO, "wsiseg.engine.resume"):
        result = run(slide_path, other, tmp_path / "w")
    first, second = batches(other)
    assert first == 0 < second
    assert (
        "refine starts over; changed: stage in the model's card, grid, tiles with tissue\n"
        in caplog.text
    )
    assert stores(result) == stores(run(slide_path, other))


def test_a_new_first_stage_keeps_nothing(slide_path, models, tmp_path, finished, caplog):
    sizes = SIZES | {"stride": 8}
    other = counted(make_colour_model(tmp_path / "m", **sizes, blend="gaussian"))
    with caplog.at_level(logging.INFO, "wsiseg.engine.resume"):
        run(slide_path, other, tmp_path / "w")
    assert all(batches(other))
    assert "refine starts over; changed: earlier heatmap\n" in caplog.text


def test_other_code_and_libraries_keep_nothing(slide_path, models, tmp_path, finished, monkeypatch):
    monkeypatch.setattr("wsiseg.engine.resume.code_fingerprint", lambda: "other")
    run(slide_path, models["gaussian"], tmp_path / "w")
    assert batches(models["gaussian"]) == finished[1]


def test_arrays_have_no_fingerprint_and_are_done_anew(models, tmp_path):
    pixels, _ = tissue_disc(SHAPE, center=(240, 400), radius=180)
    model = models["crop"]
    batches(model)
    for _ in range(2):
        with wsiseg.open(pixels, mpp=0.5) as slide:
            run(slide, model, tmp_path / "w")
        assert all(batches(model))


def test_the_choices_of_the_first_run_are_taken_again(slide_path, tmp_path, monkeypatch):
    """A measurement that comes out otherwise the next time changes no bit."""
    package = make_colour_model(tmp_path / "m", **SIZES)
    chosen = iter(["onnxruntime", "openvino"])
    tuned = lambda *_, **__: Tuning(next(chosen), (), {})  # noqa: E731
    monkeypatch.setattr(load, "tune_package", tuned)
    first, second = (wsiseg.load_model(package) for _ in range(2))
    assert (first.backend, second.backend) == ("onnxruntime", "openvino")
    options = SegmentOptions(run=RunOptions(decoding="auto"))
    decided = iter([True, False])

    def decide(*_):
        return DecodingChoice("auto", scaled=next(decided), reason="as it came out")

    monkeypatch.setattr("wsiseg.pipeline.choose_decoding", decide)
    monkeypatch.setattr(plan_module, "default_batch", lambda _: 6)
    expected = run(slide_path, first, tmp_path / "w", options)
    assert expected.plan.decoding.scaled
    monkeypatch.setattr(plan_module, "default_batch", lambda _: 11)
    monkeypatch.setattr(plan_module, "FRONT_BYTES", 1)
    result = run(slide_path, second, tmp_path / "w", options)
    assert result.model.backend == "onnxruntime"
    assert result.plan.decoding == expected.plan.decoding
    assert [stage.pace for stage in result.plan.stages] == [s.pace for s in expected.plan.stages]
    assert all(report.kept == report.tiles for report in result.reports)
    assert next(decided) is False  # it was not asked again


def test_too_little_memory_for_the_first_plan_is_another_plan(
    slide_path, models, tmp_path, monkeypatch, caplog
):
    model, options = models["crop"], with_run(batch_size=None)
    monkeypatch.setattr(plan_module, "default_batch", lambda _: 64)
    run(slide_path, model, tmp_path / "w", options)
    again = plan_module._Stage._again
    monkeypatch.setattr(plan_module._Stage, "_again", lambda s, p, o, c, _: again(s, p, o, c, 0))
    monkeypatch.setattr(plan_module, "default_batch", lambda _: 8)
    batches(model)
    with caplog.at_level(logging.INFO, "wsiseg.engine.resume"):
        run(slide_path, model, tmp_path / "w", options)
    assert all(batches(model))
    assert "changed: batch size" in caplog.text
