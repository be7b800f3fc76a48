"""Damaged slides, segmented to their end: what is lost, where, and what says so."""

import csv
import json
import shutil

import numpy as np
import orjson
import pytest
import shapely

import wsiseg
from wsiseg.annotations import open_labels
from wsiseg.engine import Journal
from wsiseg.engine.gaps import disjoint
from wsiseg.errors import IncompleteSlideWarning, TooDamagedError, UsageError
from wsiseg.options import (
    DamageOptions,
    RunOptions,
    SegmentOptions,
    TissueOptions,
    UncertaintyOptions,
)
from wsiseg.run import list_slides, segment_folder
from wsiseg.source import State
from wsiseg.testing import hostile
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

SHAPE, CENTRE, RADIUS = (1400, 1800), (600.0, 1000.0), 400.0
TILE = 2 * 8 + 4
"""Row 2, column 4 of level 0, in the middle of the disc."""

HURT = shapely.box(4 * 240, 2 * 240, 5 * 240, 3 * 240)
MM2 = 0.25e-6
"""Of a level-0 pixel."""

ANY = SegmentOptions(damage=DamageOptions(max_corrupt=1.0))
HALO_UM, PATCH_UM = 16 * 2.0, 64 * 1.0


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return wsiseg.load_model(make_colour_model(tmp_path_factory.mktemp("models") / "colour"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """The disc with three levels, and with one."""
    folder = tmp_path_factory.mktemp("slides")
    pixels, _ = tissue_disc(SHAPE, center=CENTRE, radius=RADIUS)
    return {
        levels: make_svs(folder / f"{len(levels)}.svs", pixels, levels=levels, mpp=0.5)
        for levels in ((1, 4, 16), (1,))
    }


@pytest.fixture(scope="module")
def wholes(slides, model):
    return {levels: wsiseg.segment(path, model) for levels, path in slides.items()}


@pytest.fixture(scope="module")
def hurt(slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hurt")
    return {
        levels: hostile.damage_tile(path, folder / path.name, tile=TILE)
        for levels, path in slides.items()
    }


@pytest.fixture(scope="module")
def lost(hurt, model):
    """The disc of one level, a tile of which is gone."""
    with pytest.warns(IncompleteSlideWarning, match="1 unreadable"):
        return wsiseg.segment(hurt[1,], model, options=ANY)


def region(store, change):
    """Return what pixels of a heatmap cover, at level 0."""
    down, origin = np.array(store.downsample), np.array(store.placement.origin)
    y, x = np.nonzero(change)
    start, stop = (np.stack([y + i, x + i], axis=1) * down + origin for i in (0, 1))
    return shapely.union_all(shapely.box(start[:, 1], start[:, 0], stop[:, 1], stop[:, 0]))


def test_what_a_missing_tile_reaches_is_nodata_and_all_else_the_same_bits(lost, wholes):
    before, after = wholes[1,].heatmap.codes[:], lost.heatmap.codes[:]
    gone = (before[0] != 0) & (after[0] == 0)
    assert np.array_equal(before[:, ~gone], after[:, ~gone])
    found = region(lost.heatmap, gone)
    # the refinement reads the first heatmap, whose patches reach 32 µm beyond the tile, on cells
    # of 16 µm, of which the one beyond has a say; and its own halo
    reach = (HALO_UM + PATCH_UM / 2 + 2 * 16) / 0.5
    assert found.contains(HURT)
    assert HURT.buffer(reach, join_style="mitre").contains(found)
    first_before, first_after = (r.heatmaps["heatmap"].codes[:] for r in (wholes[1,], lost))
    cells = (first_before[0] != 0) & (first_after[0] == 0)
    assert np.array_equal(first_before[:, ~cells], first_after[:, ~cells])
    found = region(lost.heatmaps["heatmap"], cells)
    assert found.contains(HURT)
    # a cell is decided by the 64 µm around its middle
    cell = shapely.box(HURT.bounds[0] - 64 - 16, 0, HURT.bounds[2] + 64 + 16, 3000)
    assert cell.contains(found)
    assert found.area > HURT.buffer(32, join_style="mitre").area


def test_the_mask_is_background_there_and_the_annotations_say_why(lost, wholes, tmp_path):
    gone = (wholes[1,].heatmap.codes[0] != 0) & (lost.heatmap.codes[0] == 0)
    labels = np.asarray(lost.labels.labels[:])
    assert not labels[gone].any()
    assert np.array_equal(labels[~gone], np.asarray(wholes[1,].labels.labels[:])[~gone])
    (place,) = lost.corrupt.geometries
    assert place.symmetric_difference(region(lost.heatmap, gone)).area < 1
    folder = lost.write(tmp_path)
    assert wsiseg.verify_geojson(folder / "annotations.geojson").verdict == "clean"
    *others, last = json.loads((folder / "annotations.geojson").read_text())["features"]
    assert {o["properties"]["classification"]["name"] for o in others} == {"Tumor"}
    assert last["properties"]["name"] == "Corrupt"
    assert last["properties"]["classification"] == {"name": "Ignore*", "color": [180, 180, 180]}
    assert shapely.geometry.shape(last["geometry"]).area == pytest.approx(place.area)
    record = orjson.loads((folder / "corrupt.json").read_bytes())
    assert record["blocks_by_level"] == {"0": {"nodata": 1}}
    (block,) = record["blocks"]
    assert block["level0"] == {"x": 960, "y": 480, "width": 240, "height": 240}
    assert "cannot be decoded" in block["reason"]
    run = orjson.loads((folder / "run.json").read_bytes())
    assert run["damage"] == {"0": {"nodata": 1}}
    assert run["summary"]["corrupt_blocks"] == 1
    assert run["options"]["damage"] == {"max_corrupt": 1.0, "degraded": True}


def test_areas_and_shares_are_those_of_the_tile(lost):
    found = lost.damage
    assert found.nodata_mm2 == pytest.approx(240 * 240 * MM2)
    assert found.degraded_mm2 == 0
    assert found.share == pytest.approx(240 * 240 * MM2 / lost.tissue.area_mm2)
    assert found.unpredicted_mm2 == pytest.approx(lost.corrupt.geometries[0].area * MM2)
    assert lost.reports[-1].lost_mm2 == found.unpredicted_mm2


def test_labels_made_of_it_ignore_the_place(lost, slides, tmp_path):
    folder = lost.write(tmp_path)
    with wsiseg.open(slides[1,]) as slide:
        labels = open_labels(folder / "annotations.geojson", slide, ["background", "Tumor"])
        values = labels.at(slide.levels[0]).read(wsiseg.Box((480, 1000), (720, 1005)))
    assert (values == 255).all()


def test_a_large_hole_in_tissue_is_tissue(slides, wholes, tmp_path):
    path = slides[1,]
    for number, tile in enumerate((11, 12, 19, 20)):
        path = hostile.damage_tile(path, tmp_path / f"{number}.svs", tile=tile)
    with wsiseg.open(path, on_damage="replace") as slide:
        tissue = wsiseg.find_tissue(slide)
        assert len(slide.ledger) == 4
    before = wholes[1,].tissue.mask
    assert np.count_nonzero(before != tissue.mask) < 0.01 * np.count_nonzero(before)


def test_tissue_is_what_lies_around(lost, wholes):
    before, after = wholes[1,].tissue.mask, lost.tissue.mask
    assert np.count_nonzero(before != after) < 0.005 * np.count_nonzero(before)


def test_a_tile_of_glass_is_no_tissue(slides, wholes, model, tmp_path):
    hurt = hostile.damage_tile(slides[1,], tmp_path / "a.svs", tile=0)
    with pytest.warns(IncompleteSlideWarning, match=r"1 unreadable\), 0 % of the tissue"):
        result = wsiseg.segment(hurt, model)
    assert np.array_equal(result.tissue.mask, wholes[1,].tissue.mask)
    assert np.array_equal(result.heatmap.codes[:], wholes[1,].heatmap.codes[:])
    assert result.damage.unpredicted_mm2 == 0
    assert result.corrupt.geometries[0].contains(shapely.box(0, 0, 240, 240))


def test_a_coarser_level_gives_nearly_the_same_and_is_flagged(hurt, wholes, model, tmp_path):
    with pytest.warns(IncompleteSlideWarning, match=r"1 replaced by a coarser level.*9\.\d+ %"):
        result = wsiseg.segment(hurt[1, 4, 16], model, options=ANY)
    whole = wholes[1, 4, 16]
    changed = (result.heatmap.codes[:] != whole.heatmap.codes[:]).any(axis=0)
    place = region(result.heatmap, changed)
    assert HURT.buffer(200, join_style="mitre").contains(place)
    assert result.heatmap.covered(wsiseg.Box.of_shape(changed.shape)).sum() == np.count_nonzero(
        whole.heatmap.codes[0]
    )
    assert np.abs(result.heatmap.codes[:].astype(int) - whole.heatmap.codes[:]).max() < 40
    assert result.damage.nodata_mm2 == result.damage.unpredicted_mm2 == 0
    assert result.damage.degraded_mm2 == pytest.approx(240 * 240 * MM2)
    assert len(result.corrupt) == 0
    (share,) = result.annotations.measurements["wsiseg: Degraded share"]
    area = result.annotations.geometries[0].area
    assert 240 * 240 / area < share < (240 + 2 * (64 + 64 + 32)) ** 2 / area
    assert "wsiseg: Degraded share" not in whole.annotations.measurements
    folder = result.write(tmp_path)
    assert orjson.loads((folder / "corrupt.json").read_bytes())["blocks"][0]["state"] == "degraded"


def test_no_degraded_means_no_result_there(hurt, model):
    options = SegmentOptions(damage=DamageOptions(max_corrupt=1.0, degraded=False))
    with pytest.warns(IncompleteSlideWarning, match="1 unreadable"):
        result = wsiseg.segment(hurt[1, 4, 16], model, options=options)
    assert result.corrupt.geometries[0].contains(HURT)
    assert result.damage.nodata_mm2 == pytest.approx(240 * 240 * MM2)


def test_layers_of_uncertainty_have_the_same_gaps(hurt, lost, model):
    layers = UncertaintyOptions(layers=("entropy",))
    options = SegmentOptions(damage=ANY.damage, uncertainty=layers)
    with pytest.warns(IncompleteSlideWarning):
        result = wsiseg.segment(hurt[1,], model, options=options)
    gone = lost.heatmap.codes[0] == 0
    assert np.array_equal(result.heatmap.codes[0] == 0, gone)
    for store in result.uncertainty.values():
        assert not store.codes[0][gone].any()


class Killed(BaseException):
    """Ends a run as a kill does."""


@pytest.mark.parametrize("levels", [(1,), (1, 4, 16)])
@pytest.mark.parametrize("event", ["TilesDone", "StageFinished"])
def test_a_killed_run_goes_on_with_what_it_knew(hurt, model, tmp_path, monkeypatch, levels, event):
    """What was found damaged before the kill is not read again, and still counts."""
    options = SegmentOptions(damage=ANY.damage, run=RunOptions(threads=1, batch_size=8))
    with pytest.warns(IncompleteSlideWarning):
        expected = wsiseg.segment(hurt[levels], model, options=options)
    heard = 0

    def listen(what):
        nonlocal heard
        heard += type(what).__name__ == event
        if heard == (1 if event == "StageFinished" else 40):
            raise Killed

    with pytest.raises(Killed), Journal(tmp_path / "work") as journal:
        wsiseg.segment(hurt[levels], model, options=options, journal=journal, listen=listen)
    again = hurt[levels]
    with Journal(tmp_path / "work") as journal, pytest.warns(IncompleteSlideWarning):
        result = wsiseg.segment(again, model, options=options, journal=journal)
        assert result.reports[0].kept > 0
        assert result.damage == expected.damage
        assert np.array_equal(result.heatmap.codes[:], expected.heatmap.codes[:])
        files = [r.write(tmp_path / name) for r, name in ((expected, "a"), (result, "b"))]
    for name in ("annotations.geojson", "corrupt.json", "tissue.geojson"):
        assert len({(folder / name).read_bytes() for folder in files}) == 1


def test_another_rule_for_damage_starts_over(hurt, model, tmp_path):
    runs = []
    for degraded in (True, False):
        damage = DamageOptions(max_corrupt=1.0, degraded=degraded)
        with Journal(tmp_path / "work") as journal, pytest.warns(IncompleteSlideWarning):
            runs.append(
                wsiseg.segment(
                    hurt[1, 4, 16], model, options=SegmentOptions(damage=damage), journal=journal
                )
            )
            kept = [report.kept for report in runs[-1].reports]
    assert kept == [0, 0]
    assert [block.state for block in runs[1].damage.blocks] == [State.NODATA]


def test_too_much_is_a_failure_that_says_how_much(hurt, model, slides, tmp_path):
    with pytest.raises(
        TooDamagedError,
        match=r"1\.svs: 1 damaged blocks \(1 unreadable\), 11\.\d % of the tissue affected, "
        r"allowed are 1 %: level 0, tile at row 2, column 4 .*nodata; copy the file anew, or allow "
        r"more with --max-corrupt",
    ):
        wsiseg.segment(hurt[1,], model)
    report = segment_folder(list_slides([str(hurt[1,]), str(slides[1, 4, 16])]), model, tmp_path)
    assert len(report.done) == 1
    with (tmp_path / "failures.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["error_class"] == "TooDamagedError"
    assert row["corrupt_blocks"] == "1"
    assert 0.1 < float(row["corrupt_share"]) < 0.12
    with (tmp_path / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["corrupt_blocks"], row["corrupt_share"]) == ("0", "0.0")
    assert report.failures[0].to_dict()["corrupt_blocks"] == 1
    assert not (tmp_path / "1").exists()


def test_the_limit_is_the_one_asked_for(hurt, model):
    for limit, fails in ((0.10, True), (0.13, False)):
        options = SegmentOptions(damage=DamageOptions(max_corrupt=limit))
        if fails:
            with pytest.raises(TooDamagedError, match="allowed are 10 %"):
                wsiseg.segment(hurt[1,], model, options=options)
        else:
            with pytest.warns(IncompleteSlideWarning):
                wsiseg.segment(hurt[1,], model, options=options)
    with pytest.raises(UsageError, match="max_corrupt"):
        DamageOptions(max_corrupt=2)


def test_damaged_coarse_levels_do_no_harm(slides, wholes, model, tmp_path):
    """The tissue step reads a coarse level; a finer one restores it."""
    path = slides[1, 4, 16]
    whole = wholes[1, 4, 16]
    for page in (1, 2):  # pages of level 1 and, after the thumbnail, level 2
        path = hostile.damage_tile(path, tmp_path / f"{page}.svs", page=page + (page > 0), tile=0)
    with pytest.warns(IncompleteSlideWarning, match="restored from a finer level"):
        result = wsiseg.segment(path, model)
    assert result.damage.share == 0
    assert {b.state for b in result.damage.blocks} == {State.RESTORED}
    errors = [abs(r.tissue.area_mm2 - np.pi * RADIUS**2 * MM2) for r in (result, whole)]
    assert errors[0] <= errors[1]  # the level itself is a JPEG, what restores it is not
    (object_,) = result.annotations.geometries
    (expected,) = whole.annotations.geometries
    assert object_.intersection(expected).area / object_.union(expected).area > 0.99


def test_walks_threads_and_scales_change_nothing(hurt, lost, model, monkeypatch):
    monkeypatch.setattr("wsiseg.engine.plan.FRONT_BYTES", 1)
    options = SegmentOptions(damage=ANY.damage, run=RunOptions(threads=3))
    with pytest.warns(IncompleteSlideWarning):
        narrow = wsiseg.segment(hurt[1,], model, options=options)
    assert max(stage.columns for stage in narrow.plan.stages) > 1
    assert np.array_equal(narrow.heatmap.codes[0] == 0, lost.heatmap.codes[0] == 0)
    assert np.array_equal(narrow.labels.labels[:], lost.labels.labels[:])


def test_a_turned_walk_loses_the_same(hurt, lost, model, monkeypatch):
    from wsiseg.engine import plan

    monkeypatch.setattr(
        plan._Stage, "_fewest_columns", lambda self, _: plan._Walk(self.setup.grid.shape[0], True)
    )
    with pytest.warns(IncompleteSlideWarning):
        turned = wsiseg.segment(hurt[1,], model, options=ANY)
    assert all(stage.pace.turned for stage in turned.plan.stages)
    assert np.array_equal(turned.heatmap.codes[:], lost.heatmap.codes[:])


def test_a_whole_view_loses_the_place_and_not_the_slide(hurt, model, tmp_path):
    package = make_colour_model(tmp_path / "whole", extent="whole", window=256, halo=0)
    with pytest.warns(IncompleteSlideWarning):
        result = wsiseg.segment(hurt[1,], wsiseg.load_model(package), options=ANY)
    (place,) = result.corrupt.geometries
    assert HURT.area < place.area < 4 * HURT.area
    assert result.damage.unpredicted_mm2 == pytest.approx(place.area * MM2, rel=0.05)


def test_a_slide_nobody_can_read_is_all_nodata(slides, model, tmp_path):
    content = bytearray(slides[1,].read_bytes())
    import tifffile

    with tifffile.TiffFile(slides[1,]) as tiff:
        page = tiff.pages[0]
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            content[offset : offset + size] = bytes(size)
    path = tmp_path / "gone.svs"
    path.write_bytes(content)
    with pytest.raises(TooDamagedError, match=r"48 unreadable\), 100 % of the tissue"):
        wsiseg.segment(path, model)
    with pytest.warns(IncompleteSlideWarning, match="48 unreadable"):
        result = wsiseg.segment(path, model, options=ANY)
    assert not len(result.annotations)
    assert not result.heatmap.codes[:].any()
    assert result.corrupt.geometries[0].area == pytest.approx(SHAPE[0] * SHAPE[1])


def test_far_from_what_can_be_seen_everything_may_be_tissue(model, tmp_path):
    """Half of a slide of glass is gone: what is there nobody knows."""
    glass = np.full((2400, 1200, 3), 243, np.uint8)
    path = make_svs(tmp_path / "a.svs", glass, levels=(1,), mpp=0.5, associated=False)
    content = path.read_bytes()
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        middle = tiff.pages[0].dataoffsets[25]
    path.write_bytes(content[: middle + 5])
    with pytest.raises(TooDamagedError, match="100 % of the tissue"):
        wsiseg.segment(path, model)


def test_the_real_region_with_broken_tiles(data_dir, tmp_path):
    """Bits outside equal those of the whole slide; nothing white is called glass or tumour."""
    path = tmp_path / "cmu.svs"
    shutil.copyfile(data_dir / "slides/cmu-1-small-region.svs", path)
    options = SegmentOptions(
        damage=DamageOptions(max_corrupt=0.05), tissue=TissueOptions(min_fraction=0.5)
    )
    package = make_colour_model(tmp_path / "model", window=160, stride=32)
    demo = wsiseg.load_model(package)
    whole = wsiseg.segment(path, demo, options=options)
    for number, tile in enumerate((34, 77)):
        path = hostile.damage_tile(path, tmp_path / f"{number}.svs", tile=tile)
    with pytest.warns(IncompleteSlideWarning, match="2 unreadable"):
        result = wsiseg.segment(path, demo, options=options)
    before, after = whole.heatmap.codes[:], result.heatmap.codes[:]
    gone = (before[0] != 0) & (after[0] == 0)
    assert np.array_equal(before[:, ~gone], after[:, ~gone])
    assert 0 < gone.mean() < 0.2
    assert result.damage.nodata_mm2 <= 2 * 240**2 * 0.499**2 * 1e-6
    assert result.damage.nodata_mm2 > 240**2 * 0.499**2 * 1e-6


def test_disjoint_boxes_cover_the_same():
    rng = np.random.default_rng(1)
    start = rng.integers(0, 40, (60, 2))
    boxes = np.concatenate([start, start + rng.integers(1, 12, (60, 2))], axis=1).astype(float)
    counts = [np.zeros((60, 60), int) for _ in range(2)]
    for count, some in zip(counts, (boxes, disjoint(boxes)), strict=True):
        for y0, x0, y1, x1 in some.astype(int):
            count[y0:y1, x0:x1] += 1
    assert counts[1].max() == 1
    assert np.array_equal(counts[0] > 0, counts[1] > 0)
    assert disjoint(np.empty((0, 4))).shape == (0, 4)
