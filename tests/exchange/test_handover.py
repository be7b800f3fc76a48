"""What napari and SpatialData get lies where the slide is, as their own readers see it."""

import json
import os
import subprocess

import dask.array
import numpy as np
import pytest

import wsiseg
from wsiseg.errors import RunError
from wsiseg.exchange import FinishedResult, export_result, napari_layers
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

CENTRE, RADIUS = (260.0, 420.0), 170.0

READERS = os.environ.get("WSISEG_READERS")
needs_readers = pytest.mark.skipif(
    READERS is None, reason="WSISEG_READERS names no Python that has spatialdata and napari"
)

OPEN_SPATIALDATA = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import numpy as np, spatialdata
from spatialdata.transformations import get_transformation
store = spatialdata.read_zarr(sys.argv[1])
def affine(element):
    way = get_transformation(element, to_coordinate_system="global")
    return way.to_affine_matrix(("x", "y"), ("x", "y")).tolist()
def largest(element):
    return element["scale0"].image if hasattr(element, "keys") and "scale0" in element else element
mask = np.asarray(largest(store.labels["mask"]))
image = largest(store.images["heatmap"])
print(json.dumps({
    "systems": store.coordinate_systems,
    "mask": affine(store.labels["mask"]), "image": affine(store.images["heatmap"]),
    "mask_shape": mask.shape, "mask_sum": int((mask > 0).sum()),
    "channels": [str(c) for c in image.coords["c"].values], "image_shape": image.shape,
    "bounds": list(map(float, store.shapes["annotations"].total_bounds)),
    "objects": len(store.shapes["annotations"]), "shapes": affine(store.shapes["annotations"]),
}))
"""

OPEN_NAPARI = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import dask.array
from napari.layers import Layer
found = []
for data, look, kind in json.load(open(sys.argv[1])):
    arrays = [dask.array.from_zarr(path) for path in data]
    if "colormap" in look and isinstance(look["colormap"], dict):
        look["colormap"] = {None if k == "null" else int(k): v for k, v in look["colormap"].items()}
    layer = Layer.create(arrays, look, kind)
    found.append([type(layer).__name__, layer.name, [float(v) for v in layer.extent.world[1]]])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(folder / "home"))
        model = wsiseg.load_model(make_colour_model(folder / "model"))
        pixels, _ = tissue_disc((600, 900), center=CENTRE, radius=RADIUS)
        path = make_svs(folder / "disc.svs", pixels, levels=(1, 4), mpp=0.5)
        return FinishedResult(wsiseg.segment(path, model).write(folder / "out"))


def read_by(code, path):
    command = [READERS, "-c", code, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_layers_are_lazy_and_lie_on_each_other(result):
    slide, *heatmaps, mask = napari_layers(result)
    assert slide[2] == "image"
    assert slide[1]["rgb"]
    assert mask[2] == "labels"
    assert [one[2] for one in heatmaps] == ["image"] * len(result.heatmap().channels)
    for data, look, _ in (slide, *heatmaps, mask):
        assert all(isinstance(array, dask.array.Array) for array in data)
        # the corner of pixel 0 is the corner of the slide
        corner = np.subtract(look["translate"], np.multiply(look["scale"], 0.5))
        np.testing.assert_allclose(corner, 0, atol=1e-9)
        extent = np.multiply(data[0].shape[:2], look["scale"])
        np.testing.assert_allclose(extent, (300, 450), atol=max(look["scale"]) + 1e-9)


def test_the_mask_in_napari_is_the_disc_in_micrometres(result):
    (*_, (data, look, _)) = napari_layers(result, slide=False)
    rows, columns = np.nonzero(np.asarray(data[0]))
    centre = [
        np.mean(axis) * scale + shift
        for axis, scale, shift in zip(
            (rows, columns), look["scale"], look["translate"], strict=True
        )
    ]
    np.testing.assert_allclose(centre, np.multiply(CENTRE, 0.5), atol=3)


def test_without_the_slide_there_are_still_layers(result, tmp_path):
    import shutil

    folder = shutil.copytree(result.folder, tmp_path / "disc")
    record = json.loads((folder / "run.json").read_text())
    record["slide"]["path"] = str(tmp_path / "gone.svs")
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"gone\.svs"):
        napari_layers(folder)
    assert len(napari_layers(folder, slide=False)) == 1 + len(result.heatmap().channels)


def test_spatialdata_is_written_whole_and_once(result, tmp_path):
    report = export_result(result, "spatialdata", tmp_path)
    (path,) = report.files
    assert path.name == "disc.spatialdata.zarr"
    assert json.loads((path / ".zattrs").read_text())["spatialdata_attrs"]["version"] == "0.1"
    with pytest.raises(RunError, match="is there already"):
        export_result(result, "spatialdata", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@needs_readers
def test_spatialdata_itself_reads_it_in_the_right_place(result, tmp_path):
    (path,) = export_result(result, "spatialdata", tmp_path).files
    found = read_by(OPEN_SPATIALDATA, path)
    assert found["systems"] == ["global"]
    mask = result.mask
    assert tuple(found["mask_shape"]) == mask.shape
    assert found["channels"] == list(result.heatmap().channels)
    np.testing.assert_allclose(np.diag(found["mask"])[:2], mask.downsample[::-1])
    np.testing.assert_allclose(np.diag(found["image"])[:2], result.heatmap().downsample[::-1])
    np.testing.assert_allclose(found["shapes"], np.eye(3))
    assert found["objects"] == 1
    y, x = CENTRE
    wanted = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
    np.testing.assert_allclose(found["bounds"], wanted, atol=12)


@needs_readers
def test_napari_itself_makes_layers_of_it(result, tmp_path):
    told = []
    for _, look, kind in napari_layers(result, slide=False):
        store = result.folder / ("mask.zarr" if kind == "labels" else "heatmap.zarr")
        paths = sorted(str(p) for p in store.iterdir() if p.name.isdigit())
        told.append((paths[:1], look, kind))
    *images, labels = told
    images = [(data, {**look, "channel_axis": None}, kind) for data, look, kind in images]
    (tmp_path / "layers.json").write_text(json.dumps([labels]))
    ((kind, name, corner),) = read_by(OPEN_NAPARI, tmp_path / "layers.json")
    assert (kind, name) == ("Labels", "mask")
    np.testing.assert_allclose(corner, (300, 450), atol=3)
