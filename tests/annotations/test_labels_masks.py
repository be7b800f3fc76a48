"""Masks as labels: formats, downsamples, the majority rule, and what is refused."""

from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labelled_slides import Pixels, pixels_over, read_all, slide
from PIL import Image

import wsiseg
from wsiseg.annotations._majority import majority
from wsiseg.annotations.labels import IGNORE, open_labels
from wsiseg.annotations.masks import mask_downsample
from wsiseg.errors import AnnotationError, LabelError
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch.labels import LabelClass, LabelStore
from wsiseg.stitch.placement import Placement

CLASSES = ("background", "stroma", "tumour")
RNG = np.random.default_rng(0)
MASK = RNG.integers(0, 3, (50, 60)).repeat(2, 0).repeat(2, 1).astype(np.uint8)  # 100 x 120


def save_png(path, values):
    Image.fromarray(values).save(path)


def save_palette(path, values):
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(path)


def save_png16(path, values):
    Image.fromarray(values.astype(np.uint16)).save(path)


def save_rgb(path, values):
    Image.fromarray(np.stack([values] * 3, axis=-1)).save(path)


def save_red(path, values):
    save = np.zeros((*values.shape, 3), np.uint8)
    save[..., 0] = values
    tifffile.imwrite(path, save, photometric="rgb", tile=(32, 32), compression="lzw")


def tiff(**options):
    return lambda path, values: tifffile.imwrite(path, values, **options)


def save_palette_tiff(path, values):
    colours = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(path, values, photometric="palette", colormap=colours)


def save_pyramid(path, values):
    with tifffile.TiffWriter(path) as writer:
        writer.write(values, tile=(32, 32), compression="zlib", subifds=1)
        writer.write(values[::2, ::2], tile=(32, 32), compression="zlib", subfiletype=1)


def save_pages(path, values):
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            writer.write(
                values[::step, ::step], tile=(16, 16), metadata=None, subfiletype=int(step > 1)
            )


def save_lossless_jpeg(path, values):
    path.write_bytes(imagecodecs.ljpeg_encode(values))


SAVERS = {
    "grey.png": save_png,
    "palette.png": save_palette,
    "deep.png": save_png16,
    "rgb.png": save_rgb,
    "red.tif": save_red,
    "tiles.tif": tiff(tile=(48, 32), compression="lzw"),
    "strips.tif": tiff(rowsperstrip=7, compression="zlib", predictor=True),
    "whole.tif": tiff(),
    "deep.tif": lambda path, values: tifffile.imwrite(
        path, values.astype(np.uint16), tile=(16, 16)
    ),
    "packbits.tif": tiff(compression="packbits"),
    "big.tif": tiff(bigtiff=True, byteorder=">", tile=(32, 32)),
    "palette.tif": save_palette_tiff,
    "pyramid.tif": save_pyramid,
    "pages.tif": save_pages,
    "lossless.jpg": save_lossless_jpeg,
}


@pytest.mark.parametrize("name", SAVERS)
def test_any_lossless_file_gives_its_values(tmp_path, name):
    SAVERS[name](tmp_path / name, MASK)
    labels = open_labels(tmp_path / name, slide(), CLASSES)
    view = labels.at(slide().levels[0])
    np.testing.assert_array_equal(view.read(Box((0, 0), (100, 120))), MASK)
    np.testing.assert_array_equal(view.read(Box((13, 31), (77, 66))), MASK[13:77, 31:66])
    outside = view.read(Box((-3, 100), (5, 130)))
    np.testing.assert_array_equal(outside[3:, :20], MASK[:5, 100:])
    assert (outside[:3] == IGNORE).all()
    assert (outside[:, 20:] == IGNORE).all()


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_black_and_white_tiff(tmp_path, photometric):
    mask = MASK > 0
    stored = ~mask if photometric == "miniswhite" else mask
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric)
    found = read_all(open_labels(tmp_path / "a.tif", slide(), CLASSES), slide().levels[0])
    np.testing.assert_array_equal(found, mask)


def test_black_and_white_png_and_255(tmp_path):
    mask = MASK > 1
    Image.fromarray(mask).save(tmp_path / "a.png")
    found = read_all(open_labels(tmp_path / "a.png", slide(), ("b", "t")), slide().levels[0])
    np.testing.assert_array_equal(found, mask)
    save_png(tmp_path / "b.png", mask * np.uint8(255))
    with pytest.raises(
        LabelError, match=r'found values 255; map them in .*mapping = {"255" = "t"}'
    ):
        open_labels(tmp_path / "b.png", slide(), ("b", "t"))
    labels = open_labels(tmp_path / "b.png", slide(), ("b", "t"), mapping={"255": "t"})
    np.testing.assert_array_equal(read_all(labels, slide().levels[0]), mask)
    labels = open_labels(tmp_path / "b.png", slide(), ("b", "t"), ignore=["255"], within=["0"])
    np.testing.assert_array_equal(read_all(labels, slide().levels[0]), np.where(mask, IGNORE, 0))


@pytest.mark.parametrize(
    ("size", "mask", "downsample"),
    [
        ((100, 120), (100, 120), (1, 1)),
        ((2967, 2220), (186, 139), (16, 16)),  # rounded up
        ((2967, 2220), (185, 138), (16, 16)),  # rounded down
        ((2967, 2220), (186, 138), (16, 16)),
        ((1000, 1500), (400, 600), (2.5, 2.5)),
        ((1000, 1500), (401, 599), (1000 / 401, 1500 / 599)),
        ((1000, 1500), (2000, 3000), (0.5, 0.5)),
        ((1000, 1000), (400, 600), None),
        ((1000, 1500), (600, 400), None),
        ((3001, 5000), (3, 5), (1024, 1024)),
    ],
)
def test_the_downsample_follows_from_the_sizes(size, mask, downsample):
    assert mask_downsample(size, mask) == downsample


@given(
    labels=arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)
    ),
    ratio=st.tuples(st.sampled_from([0.5, 1, 1.5, 2, 2.25, 3]), st.sampled_from([0.75, 1, 2, 4])),
)
def test_the_majority_covers_most_of_each_pixel(labels, ratio):
    fine = labels.repeat(12, 0).repeat(12, 1)  # all edges lie on a grid of 1/12
    edges = [
        np.minimum(np.arange(int(np.ceil(n / r)) + 1) * r, n)
        for n, r in zip(labels.shape, ratio, strict=True)
    ]
    rank = np.zeros(256, np.int64)
    rank[:4] = 2, 0, 3, 1
    found = majority(labels, edges[0], edges[1], rank)
    for i in range(len(edges[0]) - 1):
        for j in range(len(edges[1]) - 1):
            rows, columns = (
                np.rint(e[k : k + 2] * 12).astype(int) for e, k in zip(edges, (i, j), strict=True)
            )
            counts = np.bincount(fine[slice(*rows), slice(*columns)].ravel(), minlength=4)
            assert found[i, j] == max(range(4), key=lambda c: (counts[c], rank[c]))


@pytest.mark.parametrize("name", ["grey.png", "tiles.tif"])
@pytest.mark.parametrize("um", [1.0, 1.5, 1.65, 4.0])
def test_a_coarser_view_is_the_same_in_parts_and_whole(tmp_path, name, um):
    SAVERS[name](tmp_path / name, MASK)
    on = slide()
    view = on.at(um)
    labels = open_labels(tmp_path / name, on, CLASSES).at(view)
    whole = labels.read(Box.of_shape(view.shape))
    for top in range(0, view.shape[0], 7):
        for left in range(0, view.shape[1], 5):
            box = Box((top, left), (top + 7, left + 5)).clip(view.shape)
            np.testing.assert_array_equal(labels.read(box), whole[box.slices()])
    assert (whole != IGNORE).all()
    if um == 1.0:
        np.testing.assert_array_equal(whole, MASK[::2, ::2])


def test_a_mask_coarser_than_the_view_is_enlarged(tmp_path):
    save_png(tmp_path / "a.png", MASK[::20, ::20])
    found = read_all(open_labels(tmp_path / "a.png", slide(), CLASSES), slide().levels[0])
    np.testing.assert_array_equal(found, MASK[::20, ::20].repeat(20, 0).repeat(20, 1))


def test_a_coarse_level_of_a_pyramid_serves_a_coarse_view(tmp_path):
    coarse = MASK[::2, ::2].copy()
    coarse[:8, :8] = 1
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.where(MASK == 1, 0, MASK), tile=(32, 32), subifds=1)
        writer.write(coarse, tile=(32, 32), subfiletype=1)
    labels = open_labels(tmp_path / "a.tif", slide(), CLASSES)
    assert read_all(labels, pixels_over((100, 120), (8, 8)))[0, 0] == 1
    assert read_all(labels, pixels_over((100, 120), (6, 6)))[0, 0] != 1


def test_a_mask_is_not_decoded_whole(tmp_path):
    import dask.array

    count, side = 24, 24 * 512
    tiles = (np.full((512, 512), i % 3, np.uint8) for i in range(count * count))
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, tiles, shape=(side, side), dtype=np.uint8, tile=(512, 512), compression="zlib"
    )
    with tifffile.TiffFile(path) as file:
        offsets, sizes = file.pages[0].dataoffsets, file.pages[0].databytecounts
    data = bytearray(path.read_bytes())
    for offset, size in zip(offsets[count:], sizes[count:], strict=True):  # all but the first row
        data[offset : offset + size] = b"\xff" * size
    path.write_bytes(data)
    lazy = dask.array.zeros((side, side, 3), dtype=np.uint8, chunks=(2048, 2048, 3))
    labels = open_labels(path, wsiseg.open(lazy, mpp=0.5), CLASSES)
    view = labels.at(Pixels((side, side), (1.0, 1.0)))
    np.testing.assert_array_equal(view.read(Box((10, 500), (11, 516)))[0], [0] * 12 + [1] * 4)
    with pytest.raises(AnnotationError, match="block 575 cannot be decoded"):
        view.read(Box((side - 9, side - 9), (side, side)))


@pytest.mark.parametrize("name", ["tiles.tif", "pyramid.tif", "grey.png"])
def test_threads_read_the_same(tmp_path, name):
    SAVERS[name](tmp_path / name, MASK)
    view = open_labels(tmp_path / name, slide(), CLASSES).at(slide().levels[0])
    boxes = [Box((y, x), (y + 20, x + 30)) for y in range(0, 80, 10) for x in range(0, 90, 10)]
    with ThreadPoolExecutor(8) as pool:
        for box, found in zip(boxes, pool.map(view.read, boxes), strict=True):
            np.testing.assert_array_equal(found, MASK[box.slices()])


def own_store(path, mask, factor, origin=(0.0, 0.0), names=CLASSES):
    spacing = Spacing((0.5 * factor,) * 2)
    placement = Placement(mask.shape, spacing, (float(factor),) * 2, origin)
    classes = [LabelClass(name) for name in names]
    with LabelStore.create(path, placement, classes=classes) as writer:
        writer.write(Box.of_shape(mask.shape), mask)
        writer.finish()
    return path


def test_our_own_labels_lie_where_their_file_says(tmp_path):
    mask = RNG.integers(0, 3, (30, 40), dtype=np.uint8)
    path = own_store(tmp_path / "labels.zarr", mask, 2, origin=(6.0, 10.0))
    found = read_all(open_labels(path, slide(), CLASSES), slide().levels[0])
    expected = np.full((100, 120), IGNORE, np.uint8)
    expected[6:66, 10:90] = mask.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(found, expected)


def test_labels_are_found_by_name_inside_an_image(tmp_path):
    mask = RNG.integers(0, 3, (50, 60), dtype=np.uint8)
    own_store(tmp_path / "a.zarr" / "labels" / "mask", mask, 2, names=("none", "tumour", "a"))
    zarr.open_group(tmp_path / "a.zarr", mode="a", zarr_format=2)
    labels = zarr.open_group(tmp_path / "a.zarr" / "labels", mode="a", zarr_format=2)
    labels.attrs["labels"] = ["mask"]
    on = slide()
    names = {"none": "background", "a": "stroma"}
    for path in (tmp_path / "a.zarr", tmp_path / "a.zarr" / "labels"):
        found = read_all(open_labels(path, on, CLASSES, mapping=names), on.at(1.0))
        np.testing.assert_array_equal(found, np.array([0, 2, 1])[mask])
    with pytest.raises(LabelError, match=r"values 0 \(none\), 2 \(a\); map"):
        open_labels(tmp_path / "a.zarr", on, CLASSES)
    labels.attrs["labels"] = ["mask", "other"]
    with pytest.raises(AnnotationError, match="needed one label image"):
        open_labels(tmp_path / "a.zarr", on, CLASSES)


def generic(path, mask, *, scale, translation=None, zarr_format=2, label=None):
    moves = [] if translation is None else [{"type": "translation", "translation": translation}]
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    multiscales = [
        {
            "version": "0.4" if zarr_format == 2 else "0.5",
            "axes": axes,
            "datasets": [
                {
                    "path": "s0",
                    "coordinateTransformations": [{"type": "scale", "scale": scale}, *moves],
                }
            ],
        }
    ]
    entry = {"multiscales": multiscales, "image-label": label or {}}
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group.attrs.update(entry if zarr_format == 2 else {"ome": entry | {"version": "0.5"}})
    array = group.create_array("s0", shape=(1, *mask.shape), dtype=mask.dtype, chunks=(1, 16, 16))
    array[:] = mask[None]
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_labels_of_other_programs(tmp_path, zarr_format):
    mask = RNG.integers(0, 3, (50, 60)).astype(np.int32)
    label = {"properties": [{"label-value": 2, "class": "Tu"}, {"label-value": 0, "class": "no"}]}
    path = generic(tmp_path / "a.zarr", mask, scale=[1, 1.004, 1.0], zarr_format=zarr_format)
    whole = mask.repeat(2, 0).repeat(2, 1)
    found = read_all(open_labels(path, slide(), CLASSES), slide().levels[0])
    np.testing.assert_array_equal(found, whole)
    path = generic(tmp_path / "b.zarr", mask, scale=[1, 1, 1], zarr_format=zarr_format, label=label)
    names = {"Tu": "tumour", "no": "background", "1": "stroma"}
    found = read_all(open_labels(path, slide(), CLASSES, mapping=names), slide().levels[0])
    np.testing.assert_array_equal(found, whole)


def test_labels_of_a_part_lie_where_their_translation_says(tmp_path):
    mask = RNG.integers(0, 3, (20, 30)).astype(np.uint8)
    # Pixels of 2 level-0 pixels (0.5 µm) whose corner is at level-0 pixel (10, 24).
    path = generic(tmp_path / "a.zarr", mask, scale=[1, 1, 1], translation=[0, 5.25, 12.25])
    found = read_all(open_labels(path, slide(), CLASSES), slide().levels[0])
    expected = np.full((100, 120), IGNORE, np.uint8)
    expected[10:50, 24:84] = mask.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(found, expected)
    path = generic(tmp_path / "b.zarr", mask, scale=[1, 1, 1], translation=[0, 45.25, 12.25])
    with pytest.raises(AnnotationError, match="cover level-0 pixels 90 to 130, array has 100"):
        open_labels(path, slide(), CLASSES)


def test_numbers_of_objects_are_no_classes(tmp_path):
    path = generic(tmp_path / "a.zarr", np.full((50, 60), 70_000), scale=[1, 1, 1])
    with pytest.raises(AnnotationError, match="found 70000; numbers of single objects"):
        open_labels(path, slide(), CLASSES)


def save_colours(path):
    values = np.zeros((100, 120, 3), np.uint8)
    values[:50, :, 0], values[50:, :, 1] = 200, 90
    Image.fromarray(values).save(path)


def save_damaged(path):
    save_png(path, MASK)
    path.write_bytes(path.read_bytes()[:150])


BAD = {
    "lossy.jpg": (lambda p: Image.fromarray(MASK).save(p), "JPEG changes values"),
    "lossy.tif": (tiff(tile=(64, 64), compression="jpeg"), "JPEG changes values"),
    "colours.png": (save_colours, "found colours; save class values as grey"),
    "floats.tif": (lambda p: tifffile.imwrite(p, MASK.astype(np.float32)), "unsigned integers"),
    "stack.tif": (lambda p: tifffile.imwrite(p, np.stack([MASK] * 5)), "found a stack"),
    "aspect.png": (lambda p: save_png(p, MASK[:, :90]), "90 x 100 pixels has another aspect"),
    "damaged.png": (save_damaged, "no readable mask"),
    "cut.tif": (lambda p: p.write_bytes(b"II*\0\x08\0\0\0\x05"), "not a readable TIFF"),
    "text.bin": (lambda p: p.write_bytes(b"hello"), "no annotations in a known format"),
    "empty.png": (lambda p: p.write_bytes(b""), "the file is empty"),
    "values.png": (lambda p: save_png(p, MASK + np.uint8(7)), "found values 7, 8, 9; map them"),
    "folder": (lambda p: p.mkdir(), "no readable OME-Zarr labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_masks_are_refused(tmp_path, name):
    save, message = BAD[name]
    path = tmp_path / name
    save(path, MASK) if name == "lossy.tif" else save(path)
    with pytest.raises(AnnotationError, match=message):
        open_labels(path, slide(), CLASSES)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["1008", "1015"])
def test_real_masks(data_dir, name):
    folder = data_dir / "histology" / "bcss"
    mask = np.array(Image.open(folder / "masks" / f"{name}.png"))
    with wsiseg.open(folder / "images" / f"{name}.jpg", mpp=0.25) as on:
        labels = open_labels(
            folder / "masks" / f"{name}.png", on, ("other", "tumour"), mapping={"255": "tumour"}
        )
        view = on.at(1.0)
        share = mask.reshape(view.shape[0], 4, view.shape[1], 4).mean(axis=(1, 3)) / 255
        found = read_all(labels, view)
        np.testing.assert_array_equal(found, share >= 0.5)  # a tie goes to the later class
        assert labels.areas()["tumour"] == pytest.approx((mask > 0).sum() / 16, rel=0.01)
