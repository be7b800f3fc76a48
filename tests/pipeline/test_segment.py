"""The whole flow on slides whose truth is a formula."""

import csv
import json
import os
import warnings

import numpy as np
import orjson
import pytest
import shapely

import wsiseg
from wsiseg.engine import finished_folder
from wsiseg.engine import plan as plan_module
from wsiseg.engine.working import journal_folder
from wsiseg.errors import (
    DamagedFileError,
    EmptyTissueWarning,
    MemoryBudgetError,
    MissingSpacingError,
    RunError,
    SpacingUnavailableError,
)
from wsiseg.options import ExportOptions, RunOptions, SegmentOptions, TissueOptions
from wsiseg.run import export_tiles, list_slides, parse_bytes, segment_folder, tissue_folder
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

SHAPE, CENTRE, RADIUS = (1400, 1800), (600.0, 1000.0), 400.0


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    previous = os.environ.get("WSISEG_HOME")
    os.environ["WSISEG_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    if previous is None:
        del os.environ["WSISEG_HOME"]
    else:
        os.environ["WSISEG_HOME"] = previous


@pytest.fixture(scope="session")
def model(home, tmp_path_factory):
    return wsiseg.load_model(make_colour_model(tmp_path_factory.mktemp("models") / "colour"))


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory):
    pixels, _ = tissue_disc(SHAPE, center=CENTRE, radius=RADIUS)
    return make_svs(tmp_path_factory.mktemp("slides") / "disc.svs", pixels, levels=(1, 4), mpp=0.5)


@pytest.fixture(scope="session")
def result(slide_path, model):
    return wsiseg.segment(slide_path, model)


@pytest.mark.parametrize(("biases", "share"), [((0.0, 60.0), 1.0), ((60.0, 0.0), 0.0)])
def test_a_bias_per_class_decides(slide_path, home, tmp_path, biases, share):
    package = make_colour_model(tmp_path / "biased")
    card = json.loads((package / "model.json").read_text())
    card["calibration"] = {"method": "vector", "values": [1.0, 1.0, *biases]}
    (package / "model.json").write_text(json.dumps(card))
    options = SegmentOptions(tissue=TissueOptions(detector="none"))
    found = wsiseg.segment(slide_path, wsiseg.load_model(package), options=options)
    area = sum(shapely.area(found.annotations.geometries))
    assert area == pytest.approx(share * SHAPE[0] * SHAPE[1], rel=0.02)


def test_the_tumour_is_where_it_is(result):
    (polygon,) = result.annotations.geometries
    disc = shapely.Point(CENTRE[::-1]).buffer(RADIUS, 256)
    overlap = polygon.intersection(disc).area / polygon.union(disc).area
    assert overlap > 0.98
    np.testing.assert_allclose(polygon.centroid.coords[0], CENTRE[::-1], atol=2)
    area = result.annotations.measurements["wsiseg: Area mm^2"][0]
    assert area == pytest.approx(polygon.area * 0.25e-6)
    assert result.annotations.measurements["wsiseg: Mean probability"][0] > 0.9


def test_polygons_are_exactly_the_mask(result):
    labels = np.asarray(result.labels.labels)
    pixel_area = np.prod(result.labels.downsample)
    total = shapely.area(result.annotations.geometries).sum()
    assert total == pytest.approx(np.count_nonzero(labels) * pixel_area)


def test_what_the_tissue_filter_skipped_is_nodata(result):
    box = wsiseg.Box((0, 0), result.heatmaps["heatmap"].shape)
    covered = result.heatmaps["heatmap"].covered(box)
    assert 0.1 < covered.mean() < 0.9
    assert not covered[0].any()


def test_threads_change_nothing_and_batches_last_bits_only(result, slide_path, model):
    options = SegmentOptions(run=RunOptions(threads=5))
    again = wsiseg.segment(slide_path, model, options=options)
    assert np.array_equal(again.heatmap.codes[:], result.heatmap.codes[:])
    small = SegmentOptions(run=RunOptions(batch_size=3, threads=1))
    other = wsiseg.segment(slide_path, model, options=small)
    assert np.abs(other.heatmap.codes[:].astype(int) - result.heatmap.codes[:]).max() <= 1


def test_the_second_stage_reads_the_first(result, slide_path, model, monkeypatch):
    from wsiseg.engine.inputs import HeatmapInput

    def blank(self, pixels, span, box):
        return np.zeros((*box.shape, 1), np.float32)

    monkeypatch.setattr(HeatmapInput, "patch", blank)
    without = wsiseg.segment(slide_path, model)
    with_heatmap = result.heatmap.codes[0].astype(int)
    difference = with_heatmap - without.heatmap.codes[0]
    assert difference.min() >= 0
    assert difference.max() > 20  # two of the logit, which the formula adds at most
    assert len(without.annotations) == 1


def test_a_slide_walked_in_columns_gives_the_same(slide_path, model, result, monkeypatch):
    monkeypatch.setattr("wsiseg.engine.plan.FRONT_BYTES", 1)
    narrow = wsiseg.segment(slide_path, model)
    assert min(stage.columns for stage in result.plan.stages) == 1
    assert max(stage.columns for stage in narrow.plan.stages) > 1
    np.testing.assert_array_equal(narrow.labels.labels[:], result.labels.labels[:])
    assert np.abs(narrow.heatmap.codes[:].astype(int) - result.heatmap.codes[:]).max() <= 1


def test_each_compressed_tile_is_decoded_once_for_all_stages(tmp_path, model):
    pixels, _ = tissue_disc(SHAPE, center=CENTRE, radius=RADIUS)
    path = make_svs(tmp_path / "disc.svs", pixels, levels=(1, 4, 16), mpp=0.5)
    with wsiseg.open(path) as slide:
        wsiseg.segment(slide, model).overview(100)
        assert slide.reads.distinct > 10
        assert slide.reads.amplification == 1


def test_a_whole_view_sees_the_same(slide_path, tmp_path, home):
    model = make_colour_model(tmp_path / "whole", extent="whole", window=256, halo=0)
    result = wsiseg.segment(slide_path, model)
    stage = result.plan.stages[1]
    assert stage.tiles == stage.tiles_total == 1
    assert stage.effective_um == pytest.approx((1800 * 0.5 / 256,) * 2)
    (polygon,) = result.annotations.geometries
    assert polygon.area == pytest.approx(np.pi * RADIUS**2, rel=0.03)
    np.testing.assert_allclose(polygon.centroid.coords[0], CENTRE[::-1], atol=4)


def test_the_plan_is_kept(result):
    for stage, report in zip(result.plan.stages, result.reports, strict=True):
        assert stage.tiles == report.tiles
        assert stage.batches == -(-stage.tiles // stage.batch_size)
        assert stage.tiles < stage.tiles_total


def test_written_files(result, tmp_path):
    folder = result.write(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "annotations.geojson",
        "tissue.geojson",
        "heatmap.zarr",
        "mask.zarr",
        "stage-heatmap.zarr",
        "overview.png",
        "run.json",
        ".wsiseg",
    }
    for name in ("annotations.geojson", "tissue.geojson"):
        assert wsiseg.verify_geojson(folder / name).verdict == "clean"
    record = orjson.loads((folder / "run.json").read_bytes())
    assert record["plan"]["stages"][0]["effective_um"] == [1.0, 1.0]
    assert record["slide"]["sha256_sampled"]
    store = wsiseg.HeatmapStore.open(folder / "heatmap.zarr")
    assert np.array_equal(store.codes[:], result.heatmap.codes[:])


def test_many_objects_are_drawn_after_they_are_written_with_the_same_bytes(
    result, tmp_path, monkeypatch
):
    beside = result.write(tmp_path / "beside")
    monkeypatch.setattr("wsiseg.result.DRAWN_BESIDE", -1)
    after = result.write(tmp_path / "after")
    assert sorted(p.name for p in after.iterdir()) == sorted(p.name for p in beside.iterdir())
    assert (after / "overview.png").read_bytes() == (beside / "overview.png").read_bytes()


def test_two_runs_write_the_same_bytes(slide_path, model, tmp_path):
    folders = [
        wsiseg.segment(slide_path, model).write(tmp_path / name) for name in ("first", "second")
    ]
    files = [
        sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        for folder in folders
    ]
    assert files[0] == files[1]
    for file in files[0]:
        if file.name != "run.json":  # it has the times
            assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


def test_simplified_outlines_have_fewer_corners_and_the_same_area(slide_path, model, result):
    options = SegmentOptions(export=ExportOptions(simplify_um=4.0))
    simple = wsiseg.segment(slide_path, model, options=options)
    before = shapely.get_num_coordinates(result.annotations.geometries).sum()
    after = shapely.get_num_coordinates(simple.annotations.geometries).sum()
    assert after < before / 3
    total = [shapely.area(r.annotations.geometries).sum() for r in (result, simple)]
    assert total[1] == pytest.approx(total[0], rel=0.02)
    assert shapely.is_valid(simple.annotations.geometries).all()


def test_no_tissue_is_an_empty_valid_result(model, tmp_path):
    glass = np.full((600, 700, 3), 243, np.uint8)
    with pytest.warns(EmptyTissueWarning, match="no tissue"), wsiseg.open(glass, mpp=0.5) as slide:
        result = wsiseg.segment(slide, model)
        folder = result.write(tmp_path)
    assert len(result.annotations) == 0
    assert orjson.loads((folder / "annotations.geojson").read_bytes())["features"] == []
    report = wsiseg.verify_geojson(folder / "annotations.geojson")
    assert report.verdict == "clean"
    assert report.counts == {"nothing-found": 1}


def test_a_missing_pixel_size_is_an_error_with_the_remedy(model):
    with (
        wsiseg.open(np.zeros((99, 99, 3), np.uint8)) as slide,
        pytest.raises(MissingSpacingError, match="--mpp"),
    ):
        wsiseg.segment(slide, model)


def test_a_slide_too_coarse_is_refused(model):
    with (
        wsiseg.open(tissue_disc((99, 99))[0], mpp=4.0) as slide,
        pytest.raises(SpacingUnavailableError, match=r"needed pixels of 1 x 1 µm.*4 x 4 µm"),
    ):
        wsiseg.segment(slide, model)


def test_a_plan_over_the_budget_is_refused_with_the_numbers(slide_path, model):
    options = SegmentOptions(run=RunOptions(memory_bytes=50_000_000))
    with pytest.raises(MemoryBudgetError, match=r"needs \d+ MB, allowed are 50 MB"):
        wsiseg.plan(slide_path, model, options=options)


def test_a_plan_shrinks_until_it_is_within_the_budget(slide_path, model, monkeypatch):
    """Down to single patches, and then it is refused; no plan needs more than is allowed."""
    resident = 100_000_000
    monkeypatch.setattr(plan_module, "resident_memory", lambda: resident)
    monkeypatch.setattr(plan_module, "default_batch", lambda _: 64)
    least = resident + plan_module.OUTPUT_BYTES

    def plan(allowed):
        run = RunOptions(threads=2, memory_bytes=allowed)
        return wsiseg.plan(slide_path, model, options=SegmentOptions(run=run))

    plans, allowed = [], 10**11
    with pytest.raises(MemoryBudgetError, match="needs"):
        while True:
            plans.append(plan(allowed))
            assert plans[-1].projected_bytes <= allowed
            assert plans[-1].projected_bytes >= least + sum(s.front_bytes for s in plans[-1].stages)
            allowed = plans[-1].projected_bytes - 1
    batches = [[stage.batch_size for stage in one.stages] for one in plans]
    assert len(plans) > 1
    assert batches == sorted(batches, reverse=True)
    assert batches[0] != batches[-1]


def test_anisotropic_pixels_are_not_averaged(model):
    pixels, _ = tissue_disc((800, 1600), center=(400, 800), radius=300)
    with wsiseg.open(pixels, mpp=(0.25, 0.5)) as slide:
        result = wsiseg.segment(slide, model)
    (polygon,) = result.annotations.geometries
    left, top, right, bottom = polygon.bounds
    np.testing.assert_allclose([left, top, right, bottom], [500, 100, 1100, 700], atol=9)
    assert result.summary()["Tumor_mm2"] == pytest.approx(np.pi * 300**2 * 0.125e-6, rel=0.03)


def test_one_bad_slide_never_ends_the_batch(slide_path, model, tmp_path):
    bad = tmp_path / "bad.svs"
    bad.write_bytes(slide_path.read_bytes()[:40_000])
    text = tmp_path / "text.svs"
    text.write_text("not an image")
    jobs = list_slides([str(bad), str(text), str(tmp_path / "gone.svs"), str(slide_path)])
    out = tmp_path / "out"
    report = segment_folder(jobs, model, out)
    assert [row.path for row in report.done] == [str(slide_path)]
    assert len(report.failures) == 3
    for row in report.failures:
        assert "\n" not in row.error
        assert row.error_class.endswith("Error")
    with (out / "failures.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [j.path for j in jobs[:3]]
    with (out / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["Tumor_mm2"]) == pytest.approx(np.pi * RADIUS**2 * 0.25e-6, rel=0.02)
    assert {path.name for path in out.iterdir()} == {
        "disc",
        "summary.csv",
        "failures.csv",
        "report.html",
    }


def test_several_devices_are_a_process_each_with_the_same_result(
    slide_path, model, tmp_path, monkeypatch
):
    twin = tmp_path / "twin.svs"
    twin.write_bytes(slide_path.read_bytes())
    text = tmp_path / "text.svs"
    text.write_text("not an image")
    jobs = list_slides([str(slide_path), str(text), str(twin)])
    options = SegmentOptions(run=RunOptions(backend="onnxruntime"))
    alone = segment_folder(jobs, model.path, tmp_path / "alone", options=options)
    monkeypatch.setattr("wsiseg.run.segment.devices_to_use", lambda _: ("cpu", "cpu"))
    heard = []
    together = segment_folder(
        jobs, model.path, tmp_path / "together", options=options, listen=heard.append
    )
    assert {row.path for row in together.done} == {str(slide_path), str(twin)}
    assert [row.error for row in together.failures] == [row.error for row in alone.failures]
    assert {event.slide for event in heard} == {"disc.svs", "twin.svs"}
    for name in ("disc", "twin"):
        files = [tmp_path / run / name / "annotations.geojson" for run in ("alone", "together")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_too_much_damage_fails_the_slide_and_leaves_no_result(slide_path, model, tmp_path):
    import tifffile

    with tifffile.TiffFile(slide_path) as tiff:
        page = tiff.pages[0]
        columns = -(-page.imagewidth // page.tilewidth)
        row, column = (int(c) // page.tilewidth for c in CENTRE)
        middle = row * columns + column
        offset, size = page.dataoffsets[middle], page.databytecounts[middle]
    content = bytearray(slide_path.read_bytes())
    content[offset : offset + size] = b"\x55" * size
    damaged = tmp_path / "damaged.svs"
    damaged.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"damaged.svs.*level 0.*tile"):
        wsiseg.segment(damaged, model)
    report = segment_folder(list_slides([str(damaged)]), model, tmp_path / "out")
    assert report.failures[0].error_class == "TooDamagedError"
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names - {journal_folder(tmp_path / "out", "damaged", "segment").name} == {
        "summary.csv",
        "failures.csv",
        "report.html",
    }


def test_an_output_folder_that_cannot_be_made_is_one_clear_error(slide_path, model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot be written.*write elsewhere"):
        segment_folder(list_slides([str(slide_path)]), model, tmp_path / "file" / "out")


def test_a_full_disk_leaves_nothing_under_the_final_name(result, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsiseg.result.save_png", full)
    with pytest.raises(wsiseg.WsisegError, match="no room left"):
        result.write(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["../escape", "..", ".", "/abs"])
def test_output_names_cannot_escape(tmp_path, name):
    with (
        pytest.raises(RunError, match="outside the output folder"),
        finished_folder(tmp_path, name),
    ):
        pass


def test_results_of_an_earlier_run_are_replaced_and_notes_stay(result, tmp_path):
    folder = result.write(tmp_path)
    (folder / "notes.txt").write_text("mine")
    code = folder / "heatmap.zarr" / "stale"
    code.write_text("old")
    result.write(tmp_path)
    assert not code.exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["disc"]


def test_tissue_folder_and_tiles(slide_path, tmp_path):
    report = tissue_folder(list_slides([str(slide_path)]), tmp_path / "tissue")
    assert not report.failures
    folder = tmp_path / "tissue" / "disc"
    assert {p.name for p in folder.iterdir()} == {
        "tissue.geojson",
        "overview.png",
        ".wsiseg",
        ".wsiseg.json",
    }
    area = json.loads((folder / "tissue.geojson").read_text())["features"][0]
    assert area["properties"]["classification"]["name"] == "Tissue"


def test_tiles_are_the_slides_pixels_at_their_coordinates(slide_path, tmp_path):
    import cv2

    with wsiseg.open(slide_path) as slide:
        export_tiles(
            slide,
            tmp_path,
            spacing_um=1.0,
            patch=64,
            stride=48,
            options=TissueOptions(min_fraction=0.6),
        )
        view = slide.at(1.0)
        with (tmp_path / "tiles.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) > 20
        for row in rows[::7]:
            x, y, width = (int(row[key]) for key in ("minx", "miny", "width"))
            assert width == 128
            picture = cv2.imread(str(tmp_path / row["file"]))[..., ::-1]
            start = (y // 2, x // 2)
            expected = view.read(wsiseg.Box(start, (start[0] + 64, start[1] + 64)))
            assert np.array_equal(picture, expected)
            assert 0.6 <= float(row["tissue"]) <= 1


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("500 MB", 5e8), ("1e9", 1e9), ("2GiB", 2**31)]
)
def test_memory_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "4XB"])
def test_memory_sizes_that_are_none(text):
    with pytest.raises(RunError, match="needed"):
        parse_bytes(text)


def test_progress_events_add_up(slide_path, model):
    heard = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = wsiseg.segment(slide_path, model, listen=heard.append)
    from wsiseg.engine import StageFinished, StageStarted, TilesDone

    started = [e for e in heard if isinstance(e, StageStarted)]
    assert [e.stage for e in started] == ["patches", "refine"]
    done = sum(e.tiles for e in heard if isinstance(e, TilesDone))
    assert done == sum(e.tiles for e in started) == result.summary()["tiles"]
    assert isinstance(heard[-1], StageFinished)


@pytest.mark.slow
def test_peak_memory_stays_within_the_plan(home, tmp_path):
    """In a process of its own, on a slide of 200 million pixels."""
    import subprocess
    import sys

    code = f"""
import numpy as np, wsiseg
from wsiseg.machine import peak_memory
from wsiseg.testing.models import make_colour_model
from pathlib import Path
rng = np.random.default_rng(0)
tile = np.repeat(np.repeat(rng.integers(90, 240, (64, 64, 3), dtype=np.uint8), 32, 0), 32, 1)
pixels = np.tile(tile, (6, 8, 1))
model = wsiseg.load_model(make_colour_model(Path({str(tmp_path / "model")!r})))
del tile, rng
with wsiseg.open(pixels, mpp=0.5) as slide:
    plan = wsiseg.plan(slide, model)
    result = wsiseg.segment(slide, model)
    result.write({str(tmp_path / "out")!r})
peak = peak_memory()
print(plan.projected_bytes, peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    projected, peak = map(int, done.stdout.split()[-2:])
    assert peak <= projected


def test_what_wsiseg_did_not_write_is_never_replaced(result, tmp_path):
    """A MIRAX slide keeps its pixels in a folder of its own name."""
    data = tmp_path / "disc" / "Data0001.dat"
    data.parent.mkdir()
    data.write_bytes(b"pixels")
    with pytest.raises(RunError, match="was not written by wsiseg"):
        result.write(tmp_path)
    assert data.read_bytes() == b"pixels"


def test_another_commands_output_is_never_replaced(result, slide_path, tmp_path):
    folder = result.write(tmp_path)
    report = tissue_folder(list_slides([str(slide_path)]), tmp_path)
    assert "was written by 'segment'" in report.failures[0].error
    assert (folder / "annotations.geojson").exists()


def test_a_second_run_keeps_the_rows_of_the_first(slide_path, model, tmp_path):
    other = slide_path.with_name("other.svs")
    other.write_bytes(slide_path.read_bytes())
    for path in (slide_path, other, slide_path):
        again = wsiseg.FolderOptions(again=True)
        segment_folder(list_slides([str(path)]), model, tmp_path, folder=again)
    with (tmp_path / "summary.csv").open() as file:
        assert [row["slide"] for row in csv.DictReader(file)] == ["other.svs", "disc.svs"]


def test_heatmaps_outlive_their_result(slide_path, model):
    heatmap = wsiseg.segment(slide_path, model).heatmap
    assert heatmap.read(wsiseg.Box((0, 0), heatmap.shape)).max() > 0.9


def test_the_result_of_another_slide_of_that_name_is_never_replaced(result, model, tmp_path):
    result.write(tmp_path)
    pixels, _ = tissue_disc((700, 700), seed=5)
    other = make_svs(tmp_path / "disc.svs", pixels, levels=(1,), mpp=0.5)
    report = segment_folder(list_slides([str(other)]), model, tmp_path)
    assert "is the result of another slide" in report.failures[0].error


def test_a_pixel_size_that_contradicts_the_file_is_said(slide_path, model, tmp_path):
    report = segment_folder(list_slides([str(slide_path)], mpp=0.25), model, tmp_path)
    (warning,) = report.done[0].warnings
    assert "taken as 0.25 x 0.25 µm per pixel, as told; the file says 0.5 x 0.5" in warning


def test_segment_folder_takes_paths(slide_path, model, tmp_path):
    twin = tmp_path / "slides" / "twin.svs"
    twin.parent.mkdir()
    twin.write_bytes(slide_path.read_bytes())
    out = tmp_path / "out"
    report = wsiseg.segment_folder([str(slide_path), twin], model, out)
    assert [row.folder for row in report.done] == [str(out / "disc"), str(out / "twin")]
    assert len(wsiseg.segment_folder(twin.parent, model, out).done) == 1
    assert {p.name for p in out.iterdir()} == {"disc", "twin", "summary.csv", "report.html"}
