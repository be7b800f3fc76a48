"""OME-NGFF metadata, judged by readers that are not ours."""

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v04 import Image, ImageLabel

from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import HeatmapStore, LabelClass, LabelStore, Placement

PLANES = {2: (1030, 700), 3: (40, 520, 33)}


@pytest.fixture(params=[2, 3], ids=["2d", "3d"], scope="module")
def stored(request, tmp_path_factory):
    """A heatmap with two channels and a label image in it, as (path, codes, labels)."""
    shape = PLANES[request.param]
    path = tmp_path_factory.mktemp("ngff") / "heatmap.zarr"
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (*shape, 2), dtype=np.uint8)
    labels = rng.integers(0, 2, shape, dtype=np.uint8)
    downsample = (4.0,) * len(shape)
    placement = Placement(shape, Spacing((1.0, 2.0, 4.0)[-len(shape) :]), downsample)
    whole = Box.of_shape(shape)
    colors = {"Tumor": (200, 0, 0)}
    with HeatmapStore.create(path, placement, channels=["other", "Tumor"], colors=colors) as w:
        w.write(whole, codes)
        w.finish()
    classes = [LabelClass("background"), LabelClass("Tumor", (200, 0, 0))]
    with LabelStore.create(path / "labels" / "mask", placement, classes=classes) as w:
        w.write(whole, labels)
        w.finish()
    return path, codes, labels


def test_the_image_is_valid_ngff_0_4(stored):
    path, codes, _ = stored
    image = Image.from_zarr(zarr.open_group(path, mode="r"))
    (multiscale,) = image.attributes.multiscales
    space = ["z", "y", "x"][-(codes.ndim - 1) :]
    assert multiscale.version == "0.4"
    assert [axis.name for axis in multiscale.axes] == ["c", *space]
    assert {axis.unit for axis in multiscale.axes[1:]} == {"micrometer"}
    assert image.attributes.omero.channels[1].color == "C80000"
    assert image.attributes.omero.channels[0].window.end == 255
    assert image.labels.attributes.labels == ["mask"]


def test_the_levels_lie_on_one_another_and_on_the_slide(stored):
    path, codes, _ = stored
    image = Image.from_zarr(zarr.open_group(path, mode="r"))
    um = np.array((1.0, 2.0, 4.0)[-(codes.ndim - 1) :])
    for level, dataset in enumerate(image.attributes.multiscales[0].datasets):
        scale, translation = dataset.coordinateTransformations
        np.testing.assert_allclose(scale.scale, [1, *um * 2**level])
        # A pixel of f level-0 pixels is centred (f - 1) / 2 level-0 pixels further.
        expected = (4 * 2**level - 1) / 2 * um / 4
        np.testing.assert_allclose(translation.translation, [0, *expected])


def test_the_label_image_is_valid_ngff_0_4(stored):
    path, _, _ = stored
    label = ImageLabel.from_zarr(zarr.open_group(path / "labels" / "mask", mode="r"))
    entry = label.attributes.image_label
    assert entry.version == "0.4"
    assert [(c.label_value, c.rgba) for c in entry.colors] == [
        (0, (255, 255, 255, 0)),
        (1, (200, 0, 0, 255)),
    ]
    assert entry.source.image == "../../"


def test_ome_zarr_py_reads_the_pixels_back(stored):
    path, codes, labels = stored
    nodes = list(Reader(parse_url(path, mode="r"))())
    image = next(node for node in nodes if node.zarr.path.endswith("heatmap.zarr"))
    mask = next(node for node in nodes if node.zarr.path.endswith("labels/mask"))
    np.testing.assert_array_equal(image.data[0].compute(), np.moveaxis(codes, -1, 0))
    np.testing.assert_array_equal(mask.data[0].compute(), labels)
    assert image.metadata["channel_names"] == ["other", "Tumor"]
    assert len(image.data) == len(mask.data) > 1
    assert mask.metadata["color"][1] == pytest.approx([200 / 255, 0, 0, 1], abs=1 / 255)


def test_plain_zarr_of_version_2_with_nested_chunks(stored):
    path, _, _ = stored
    array = zarr.open_array(path / "0", mode="r")
    assert array.metadata.zarr_format == 2
    assert array.metadata.dimension_separator == "/"
    assert array.fill_value == 0
