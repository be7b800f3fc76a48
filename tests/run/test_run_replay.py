"""A run repeated from its record: the same bytes, or what differs is said."""

import gc
import json
import shutil

import numpy as np
import pytest
import zarr
from wsiseg_cli.main import app

from wsiseg.engine import plan as plan_module
from wsiseg.errors import ModelError, RunError, UsageError
from wsiseg.options import EmbedOptions, ExportOptions, RunOptions, SegmentOptions
from wsiseg.run import list_slides, segment_folder
from wsiseg.run.embed import embed_folder
from wsiseg.run.replay import replay
from wsiseg.testing.models import make_colour_model, make_embedding_model
from wsiseg.testing.slides import make_svs, tissue_disc

SIZES = {"patch": 32, "stride": 16, "refine_um": 1.0, "window": 64, "halo": 8}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        gc.freeze()
        yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A slide, its model and a run in columns with options of its own."""
    folder = tmp_path_factory.mktemp("place")
    pixels, _ = tissue_disc((520, 760), center=(240, 400), radius=180)
    slide = make_svs(folder / "disc.svs", pixels, levels=(1, 4), tile=128, mpp=0.4)
    model = make_colour_model(folder / "model", **SIZES, blend="gaussian")
    options = SegmentOptions(
        run=RunOptions(backend="onnxruntime", batch_size=5, decoding="auto", memory_bytes=10**11),
        export=ExportOptions(simplify_um=1.0, compress=True),
    )
    jobs = list_slides([str(slide)], mpp=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "FRONT_BYTES", 1)
        report = segment_folder(jobs, model, folder / "out", options=options)
    assert not report.failures
    return folder


@pytest.fixture
def result(place, tmp_path):
    """The result of the run, to be changed."""
    return shutil.copytree(place / "out" / "disc", tmp_path / "out" / "disc")


def change(folder, **parts):
    """Change parts of a record, named `a__b`."""
    record = json.loads((folder / "run.json").read_text())
    for path, value in parts.items():
        *parents, last = path.split("__")
        part = record
        for name in parents:
            part = part[name]
        part[last] = value
    (folder / "run.json").write_text(json.dumps(record))


def test_a_run_is_repeated_to_the_byte(place, tmp_path):
    """Batches and columns are those of the record, though another plan would be made now."""
    report = replay(place / "out" / "disc", tmp_path)
    assert report.differences == ()
    assert report.circumstances == ()
    assert report.is_identical
    assert set(report.same) == {
        "annotations.geojson.gz",
        "heatmap.zarr",
        "mask.zarr",
        "overview.png",
        "stage-heatmap.zarr",
        "tissue.geojson.gz",
    }
    assert report.folder == tmp_path / "disc"
    record = json.loads((report.folder / "run.json").read_text())
    assert record["plan"]["stages"][0]["columns"] > 1
    assert [path.name for path in tmp_path.iterdir()] == ["disc"]


def test_vectors_are_repeated(place, tmp_path):
    model = make_embedding_model(tmp_path / "model", patch=32, stride=16)
    options = EmbedOptions(run=RunOptions(batch_size=5), parquet=False)
    embed_folder([str(place / "disc.svs")], model, tmp_path / "out", options=options)
    report = replay(tmp_path / "out" / "disc" / "run.json", tmp_path / "again")
    assert report.is_identical
    assert report.same == ("embeddings.zarr",)


def test_what_is_somewhere_else_can_be_named(place, result, tmp_path):
    slide = shutil.copy(place / "disc.svs", tmp_path / "moved.svs")
    model = shutil.copytree(place / "model", tmp_path / "moved")
    change(result, slide__path="/gone.svs", model__path="/gone", model__name="gone")
    with pytest.raises(ModelError, match=r"gone.*give --model"):
        replay(result, tmp_path / "again", slide=slide)
    with pytest.raises(RunError, match=r"/gone.svs: is not there.*give --slide"):
        replay(result, tmp_path / "again", model=model)
    report = replay(result, tmp_path / "again", slide=slide, model=model)
    assert "mask.zarr" in report.same
    assert "name of the slide: gone.svs then, moved.svs now" in report.circumstances


def test_another_slide_or_model_is_refused(place, result, tmp_path):
    pixels, _ = tissue_disc((520, 760), seed=3)
    other = make_svs(tmp_path / "disc.svs", pixels, levels=(1,), mpp=0.5)
    with pytest.raises(RunError, match="not the slide of the run: needed fingerprint"):
        replay(result, tmp_path / "again", slide=other)
    model = make_colour_model(tmp_path / "model", **SIZES)
    with pytest.raises(ModelError, match="not the model of the run: needed digest"):
        replay(result, tmp_path / "again", model=model)


def test_what_was_edited_since_was_the_same(result, tmp_path):
    """The marker knows what was written."""
    (result / "annotations.geojson.gz").write_bytes(b"edited")
    assert "annotations.geojson.gz" in replay(result, tmp_path / "again").same


def test_what_differs_is_said(result, tmp_path):
    (result / "overview.png").write_bytes(b"another picture")
    (result / "tissue.geojson.gz").unlink()
    mask = zarr.open_array(result / "mask.zarr" / "0", mode="r+", zarr_format=2)
    heatmap = zarr.open_array(result / "heatmap.zarr" / "0", mode="r+", zarr_format=2)
    mask[:13, :10] = 1 - np.asarray(mask[:13, :10])
    codes = np.asarray(heatmap[:])
    heatmap[:] = np.where(codes == codes.max(), codes - 2, codes)
    (result / "stage-heatmap.zarr" / "note").write_text("more")
    found = {d.name: d.what for d in replay(result, tmp_path / "again").differences}
    assert found.keys() == {
        "overview.png",
        "tissue.geojson.gz",
        "mask.zarr",
        "heatmap.zarr",
        "stage-heatmap.zarr",
    }
    assert found["overview.png"] == "other bytes"
    assert found["tissue.geojson.gz"] == "is not beside the record"
    assert found["mask.zarr"] == "0.0013 of the pixels have another class"
    assert "of the values differ, by 0.0079 at most" in found["heatmap.zarr"]
    assert found["stage-heatmap.zarr"] == "other bytes, the same values"


def test_a_file_that_is_not_made_again_is_said(result, tmp_path):
    change(result, options__export__compress=False)
    found = {d.name: d.what for d in replay(result, tmp_path / "again").differences}
    assert found == {
        f"{kind}.geojson{packed}": what
        for kind in ("annotations", "tissue")
        for packed, what in ((".gz", "was not made again"), ("", "is not beside the record"))
    }


def test_what_is_not_as_it_was_is_said(result, tmp_path):
    change(result, versions__numpy="1.0", model__processor="an abacus", code="other")
    change(result, model__backend="none", model__device="cuda:7", model__precision="bfloat16")
    report = replay(result, tmp_path / "again")
    text = "\n".join(report.circumstances)
    for said in (
        f"numpy: 1.0 then, {np.__version__} now",
        "processor: an abacus then",
        "wsiseg's code: other then",
        "backend: none then, onnxruntime now",
        "device: cuda then, cpu now",
        "precision: bfloat16 then, float32 now",
    ):
        assert said in text


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"slide": {"path": "a"}, "command": "segment"}']
)
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"no record that can be repeated.*needed a run.json"):
        replay(tmp_path, tmp_path / "again")
    with pytest.raises(RunError, match="cannot be read"):
        replay(tmp_path / "gone.json", tmp_path / "again")


def test_a_run_is_not_replaced_by_its_repetition(result):
    with pytest.raises(UsageError, match="where the run itself is"):
        replay(result, result.parent)


def test_the_command_tells_by_its_exit(result, tmp_path, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            app(["replay", str(result), "-o", str(tmp_path / "again"), *arguments])
        return stopped.value.code, capsys.readouterr()

    code, heard = call()
    assert code == 0
    assert "same bytes: mask.zarr" in heard.out
    (result / "overview.png").write_bytes(b"another picture")
    code, heard = call("--json")
    assert code == 1
    said = json.loads(heard.out)
    assert said["identical"] is False
    assert said["differences"] == [{"name": "overview.png", "what": "other bytes"}]
