"""Vectors of tiles: against a formula on pixels read without the engine, and on disk."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr
from typer.testing import CliRunner
from wsiseg_cli.main import app

import wsiseg
from wsiseg.engine import TilesDone
from wsiseg.errors import (
    EmptyTissueWarning,
    HeatmapError,
    HeatmapExistsError,
    ModelCardError,
    ModelError,
    OutputShapeError,
    RunError,
    SpacingUnavailableError,
    UsageError,
)
from wsiseg.model import ModelCard, add_model, check_model
from wsiseg.options import EmbedOptions, RunOptions, TissueOptions
from wsiseg.run import list_slides, segment_folder
from wsiseg.run.embed import embed_folder
from wsiseg.stitch import VectorStore
from wsiseg.testing.models import embedding_of, make_colour_model, make_embedding_model
from wsiseg.testing.slides import make_tiff_pyramid, tissue_disc

SHAPE, CENTRE, RADIUS = (1000, 1300), (450.0, 700.0), 330.0
EVERYTHING = EmbedOptions(tissue=TissueOptions(detector="none", min_fraction=0))


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def model(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "vectors"
    return wsiseg.load_model(make_embedding_model(folder, spacing_um=0.5))


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    pixels, _ = tissue_disc(SHAPE, center=CENTRE, radius=RADIUS)
    path = tmp_path_factory.mktemp("slides") / "disc.tiff"
    return make_tiff_pyramid(path, pixels, levels=(1, 4), mpp=0.5)


@pytest.fixture(scope="module")
def found(slide_path, model):
    return wsiseg.embed(slide_path, model)


def inside(boxes, shape):
    """Return which boxes lie wholly on the slide: what is beyond is the reader's choice."""
    return (boxes[:, 2] <= shape[0]) & (boxes[:, 3] <= shape[1])


def test_vectors_are_the_formula_on_the_pixels_of_the_file(found, slide_path):
    pixels = tifffile.imread(slide_path, level=0)
    boxes, vectors = found.store.coordinates[:], found.store.vectors[:]
    assert len(found) > 50
    assert (boxes[:, 2:] - boxes[:, :2] == 64).all()
    whole = inside(boxes, SHAPE)
    assert whole.sum() > 50
    patches = np.stack([pixels[y0:y1, x0:x1] for y0, x0, y1, x1 in boxes[whole]])
    np.testing.assert_allclose(vectors[whole], embedding_of(patches), atol=1e-5)


def test_at_a_downsampled_level_coordinates_count_in_level_0(slide_path, tmp_path):
    model = make_embedding_model(tmp_path / "coarse", spacing_um=2.0, patch=32, stride=20)
    found = wsiseg.embed(slide_path, model, options=EVERYTHING)
    coarse = tifffile.imread(slide_path, level=1)
    boxes = found.store.coordinates[:]
    assert (boxes[:, 2:] - boxes[:, :2] == 32 * 4).all()
    assert set(np.unique(np.diff(np.unique(boxes[:, 0])))) == {20 * 4}
    small = boxes // 4
    whole = inside(small, coarse.shape)
    assert whole.sum() > 20
    patches = np.stack([coarse[y0:y1, x0:x1] for y0, x0, y1, x1 in small[whole]])
    np.testing.assert_allclose(found.store.vectors[:][whole], embedding_of(patches), atol=1e-5)
    assert found.store.attributes["effective_um"] == [2.0, 2.0]


def test_tiles_without_tissue_are_left_out(found):
    boxes = found.store.coordinates[:].astype(float)
    every = found.plan.selected[0].size
    y, x = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    distance = np.hypot(y - CENTRE[0], x - CENTRE[1])
    assert distance.max() < RADIUS + 64
    assert len(found) < every / 2
    assert (found.store.tissue[:] >= 0.5 - 1e-3).all()
    centres = (np.mgrid[:15, :20].reshape(2, -1).T + 0.5) * 64
    expected = np.hypot(*(centres - CENTRE).T) < RADIUS - 64
    assert {tuple(c) for c in centres[expected]} <= set(zip(y, x, strict=True))


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (7, 3), (64, 2)])
def test_batches_and_threads_change_no_order(found, slide_path, model, batch, threads):
    options = EmbedOptions(run=RunOptions(batch_size=batch, threads=threads))
    again = wsiseg.embed(slide_path, model, options=options)
    np.testing.assert_array_equal(again.store.coordinates[:], found.store.coordinates[:])
    np.testing.assert_allclose(again.store.vectors[:], found.store.vectors[:], atol=1e-6)


def test_columns_and_chunks_change_nothing(found, slide_path, model, monkeypatch):
    monkeypatch.setattr("wsiseg.engine.plan.FRONT_BYTES", 1)
    monkeypatch.setattr("wsiseg.stitch.vectors.CHUNK_BYTES", 36 * 5)
    narrow = wsiseg.embed(slide_path, model)
    assert found.report.columns == 1
    assert narrow.report.columns > 2
    assert len(list(narrow.store.chunks())) == -(-len(found) // 5)
    np.testing.assert_array_equal(narrow.store.coordinates[:], found.store.coordinates[:])
    np.testing.assert_allclose(narrow.store.vectors[:], found.store.vectors[:], atol=1e-6)


def test_where_patches_overlap_each_is_predicted_once(slide_path, tmp_path, monkeypatch):
    model = make_embedding_model(tmp_path / "overlap", spacing_um=0.5, stride=24)
    whole = wsiseg.embed(slide_path, model)
    monkeypatch.setattr("wsiseg.engine.plan.FRONT_BYTES", 1)
    events = []
    narrow = wsiseg.embed(slide_path, model, listen=events.append)
    assert narrow.report.columns > 2
    assert sum(e.tiles for e in events if isinstance(e, TilesDone)) == len(narrow) == len(whole)
    np.testing.assert_allclose(narrow.store.vectors[:], whole.store.vectors[:], atol=1e-6)


def test_rows_are_in_the_order_of_the_grid(found):
    boxes = found.store.coordinates[:]
    order = np.lexsort((boxes[:, 1], boxes[:, 0]))
    np.testing.assert_array_equal(order, np.arange(len(boxes)))


def test_written_files(found, tmp_path, model, monkeypatch):
    folder = found.write(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert names == {"embeddings.zarr", "embeddings.parquet", "run.json", ".wsiseg"}
    group = zarr.open_group(folder / "embeddings.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["vectors"].dtype == np.float32
    assert group["coordinates"].dtype == np.int64
    assert group.attrs["model_digest"] == model.digest
    assert (group.attrs["patch"], group.attrs["mpp"]) == ([64, 64], [0.5, 0.5])
    record = json.loads((folder / "run.json").read_text())
    assert record["model"]["digest"] == model.digest
    assert record["summary"]["tiles"] == len(found)
    assert record["slide"]["sha256_sampled"]


def test_parquet_is_the_same_as_zarr(slide_path, model, tmp_path, monkeypatch):
    monkeypatch.setattr("wsiseg.stitch.vectors.CHUNK_BYTES", 36 * 20)
    found = wsiseg.embed(slide_path, model)
    path = found.write(tmp_path) / "embeddings.parquet"
    file, table = pq.ParquetFile(path), pq.read_table(path)
    assert file.num_row_groups == len(list(found.store.chunks())) > 1
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
    np.testing.assert_array_equal(vectors, found.store.vectors[:])
    x, y, width, height, tissue = (table[n].to_numpy() for n in table.column_names[:5])
    boxes = np.stack([y, x, y + height, x + width], axis=1)
    np.testing.assert_array_equal(boxes, found.store.coordinates[:])
    np.testing.assert_array_equal(tissue, found.store.tissue[:])
    assert json.loads(table.schema.metadata[b"wsiseg"])["slide"] == "disc.tiff"


def test_as_anndata_with_the_centres_of_the_tiles(found):
    table = found.to_anndata()
    boxes = found.store.coordinates[:]
    np.testing.assert_array_equal(table.X, found.store.vectors[:])
    np.testing.assert_array_equal(table.obs["x"], boxes[:, 1])
    np.testing.assert_array_equal(table.obs["y"], boxes[:, 0])
    centres = np.stack([boxes[:, [1, 3]].mean(axis=1), boxes[:, [0, 2]].mean(axis=1)], axis=1)
    np.testing.assert_array_equal(table.obsm["spatial"], centres)
    assert table.uns["wsiseg"]["slide"] == "disc.tiff"


def test_an_earlier_run_is_replaced_and_nothing_else(found, model, slide_path, tmp_path):
    folder = found.write(tmp_path)
    other = wsiseg.embed(slide_path, model, options=EVERYTHING)
    assert other.write(tmp_path) == folder
    assert len(VectorStore(folder / "embeddings.zarr")) == len(other) > len(found)
    assert [path.name for path in tmp_path.iterdir()] == ["disc"]
    (tmp_path / "taken" / "disc").mkdir(parents=True)
    (tmp_path / "taken" / "disc" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="was not written by wsiseg"):
        found.write(tmp_path / "taken")


def test_a_failure_leaves_nothing(found, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsiseg.embedding._write_parquet", fail)
    with pytest.raises(RunError, match="no room left"):
        found.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_fails_leaves_no_store(slide_path, tmp_path, model, monkeypatch):
    def fail(self, slab):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsiseg.stitch.VectorWriter.push", fail)
    with pytest.raises(OSError, match="No space left"):
        wsiseg.embed(slide_path, model, work_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_extra_is_named(found, tmp_path, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"wsiseg\[notebook\].*--no-parquet"):
        found.write(tmp_path)
    with pytest.raises(UsageError, match="pyarrow"):
        embed_folder([], model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_tissue_gives_no_vectors(model, tmp_path):
    glass = np.full((600, 700, 3), 243, np.uint8)
    with pytest.warns(EmptyTissueWarning), wsiseg.open(glass, mpp=0.5) as slide:
        found = wsiseg.embed(slide, model)
        folder = found.write(tmp_path)
    assert len(found) == 0
    assert VectorStore(folder / "embeddings.zarr").vectors.shape == (0, 9)
    assert pq.read_table(folder / "embeddings.parquet").num_rows == 0


def test_stores_are_neither_overwritten_nor_mistaken(slide_path, model, tmp_path):
    wsiseg.embed(slide_path, model, work_dir=tmp_path)
    with pytest.raises(HeatmapExistsError, match="is there already"):
        wsiseg.embed(slide_path, model, work_dir=tmp_path)
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(HeatmapError, match="no vectors here"):
            VectorStore(path)


def test_a_slide_too_coarse_is_refused(tmp_path, slide_path):
    fine = make_embedding_model(tmp_path / "fine", spacing_um=0.25)
    with pytest.raises(SpacingUnavailableError, match="finest level"):
        wsiseg.embed(slide_path, fine)


def test_options_of_segmentation_are_refused():
    with pytest.raises(UsageError, match="skip_below"):
        EmbedOptions(run=RunOptions(skip_below=0.5))


def test_models_of_the_other_task_name_the_command(slide_path, tmp_path, model):
    colours = make_colour_model(tmp_path / "colour")
    with pytest.raises(UsageError, match="`wsiseg segment`"):
        wsiseg.embed(slide_path, colours)
    with pytest.raises(UsageError, match="`wsiseg segment`"):
        embed_folder([], colours, tmp_path / "out")
    for call in (wsiseg.segment, wsiseg.plan):
        with pytest.raises(UsageError, match="`wsiseg embed`"):
            call(slide_path, model)
    with pytest.raises(UsageError, match="`wsiseg embed`"):
        segment_folder(list_slides([str(slide_path)]), model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_goes_on_after_a_bad_slide(slide_path, model, tmp_path):
    bad = tmp_path / "bad.tiff"
    bad.write_bytes(b"no slide")
    out = tmp_path / "out"
    done = run("embed", bad, slide_path, "-m", model.path, "-o", out, "--no-parquet", "--json")
    assert done.exit_code == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted("error" in row for row in rows) == [False, True]
    assert {p.name for p in (out / "disc").iterdir()} == {
        "embeddings.zarr",
        "run.json",
        ".wsiseg",
        ".wsiseg.json",
    }
    assert (out / "failures.csv").exists()
    again = run("embed", slide_path, "-m", model.path, "-o", out)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.strip() == str(out / "disc")
    assert (out / "disc" / "embeddings.parquet").exists()


def test_the_command_needs_a_model(slide_path):
    assert run("embed", slide_path).exit_code == 2


def card(model):
    return json.loads((model.path / "model.json").read_text())


def test_the_card_survives_the_way_through_its_file(model):
    assert ModelCard.parse(model.card.to_json()) == model.card
    assert model.card.classes == ()
    assert model.channels == (9,)
    assert "as it should be" in str(check_model(model.path))


WRONG = {
    "classes": (lambda c: c.update(classes=[{"name": "a"}, {"name": "b"}]), "no classes"),
    "kind": (lambda c: c["stages"][0].update(kind="classifier"), "kind 'embedder'"),
    "activation": (lambda c: c["stages"][0].update(output={"name": "v"}), "activation 'none'"),
    "halo": (lambda c: c["stages"][0]["output"].update(halo=[1, 1]), "has no halo"),
    "whole": (lambda c: c["stages"][0].update(extent="whole"), "spacing_range_um"),
    "task": (
        lambda c: c.update(task="semantic", classes=[{"name": "a"}, {"name": "b"}]),
        "no stage of kind 'embedder'",
    ),
    "two stages": (
        lambda c: c["stages"].append(c["stages"][0] | {"name": "b", "output": {"name": "w"}}),
        "activation|one stage",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_cards_are_refused(model, change, message):
    content = card(model)
    change(content)
    with pytest.raises(ModelCardError, match=message):
        ModelCard.parse(json.dumps(content))


def test_another_length_than_recorded_is_an_error(tmp_path):
    folder = make_embedding_model(tmp_path / "vectors")
    with np.load(folder / "check.npz") as arrays:
        content = dict(arrays)
    recorded = content["colours.output"]
    np.savez(folder / "check.npz", **content | {"colours.output": recorded[:, :5]})
    with pytest.raises(OutputShapeError, match=r"needed \(2, 5\).*5 values per vector"):
        wsiseg.load_model(folder)
    np.savez(folder / "check.npz", **content | {"colours.output": recorded[0]})
    with pytest.raises(ModelError, match=r"needs an output of shape \(n, length\)"):
        wsiseg.load_model(folder)


def test_an_onnx_file_with_a_card_becomes_a_model(tmp_path):
    folder = make_embedding_model(tmp_path / "vectors")
    content = json.loads((folder / "model.json").read_text()) | {"name": "added"}
    content["stages"][0]["weights"] = {}
    (folder / "colours.json").write_text(json.dumps(content))
    added = add_model(folder / "colours.onnx")
    assert wsiseg.load_model(added).channels == (9,)
    done = run("models", "show", "added")
    assert "a vector per patch" in done.stdout


def test_real_pixels_are_those_openslide_reads(tmp_path):
    path = Path(wsiseg.__file__).parent / "bundled" / "slides" / "CMU-1-Small-Region.svs"
    model = make_embedding_model(tmp_path / "vectors", spacing_um=0.499, patch=224)
    found = wsiseg.embed(path, model)
    boxes, vectors = found.store.coordinates[:], found.store.vectors[:]
    with openslide.OpenSlide(os.fspath(path)) as slide:
        whole = np.flatnonzero(inside(boxes, slide.dimensions[::-1]))[::7]
        patches = [
            np.asarray(slide.read_region((int(x0), int(y0)), 0, (224, 224)))[..., :3]
            for y0, x0, _, _ in boxes[whole]
        ]
    assert len(patches) > 3
    np.testing.assert_allclose(vectors[whole], embedding_of(np.stack(patches)), atol=1e-5)
