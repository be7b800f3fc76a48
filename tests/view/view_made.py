"""Results of slides as `wsiseg segment` leaves them, made of smooth noise."""

import json
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, write_annotations
from wsiseg.annotations.measure import AREA, PROBABILITY, area_mm2
from wsiseg.annotations.trace import to_level0, trace_labels
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import HeatmapStore, LabelClass, LabelStore, Placement

SIZE = (1500, 2300)
MPP = 0.5
CLASSES = (
    LabelClass("background", (0, 0, 0)),
    LabelClass("Tumor", (200, 0, 0)),
    LabelClass("Immune: CD3", (160, 90, 160)),
)
TOKEN = "a-token"


def make_result(folder, slide_path, *, seed=0, image=None, downsample=4):
    """Write the result of a slide as `wsiseg segment` leaves it, of smooth noise."""
    rng = np.random.default_rng(seed)
    image = image or ImageRef(slide_path.name, SIZE, Spacing((MPP, MPP)), "aperio")
    shape = tuple(-(-n // downsample) for n in image.shape)
    noise = np.stack([gaussian_filter(rng.standard_normal(shape), 7) for _ in CLASSES])
    share = np.exp(100 * noise)
    codes = np.rint(1 + 254 * share / share.sum(axis=0)).astype(np.uint8)
    codes[:, :20] = 0
    labels = np.where(codes[0] > 0, codes.argmax(axis=0), 0).astype(np.uint8)
    placement = Placement(shape, image.spacing.times(downsample), (float(downsample),) * 2)
    folder.mkdir(parents=True)
    whole = Box.of_shape(shape)
    names = [known.name for known in CLASSES]
    for name, given, channels in (
        ("heatmap", codes, names),
        ("uncertainty-entropy", codes[:1], ["entropy"]),
    ):
        with HeatmapStore.create(folder / f"{name}.zarr", placement, channels=channels) as writer:
            writer.write(whole, np.moveaxis(given, 0, -1))
            writer.finish()
    with LabelStore.create(folder / "mask.zarr", placement, classes=CLASSES) as writer:
        writer.write(whole, labels)
        writer.finish()
    traced = trace_labels(labels, probability=codes.max(axis=0))
    polygons = to_level0(traced.geometries, downsample=(downsample,) * 2, size=image.shape)
    measured = {AREA: area_mm2(polygons, pixel=image.spacing.um), PROBABILITY: traced.probability}
    classes = tuple(AnnotationClass(known.name, known.color) for known in CLASSES[1:])
    objects = Annotations(polygons, traced.values - 1, classes, image, measured)
    write_annotations(folder, objects)
    tissue = trace_labels((codes[0] > 0).astype(np.uint8))
    outline = to_level0(tissue.geometries, downsample=(downsample,) * 2, size=image.shape)
    grey = (AnnotationClass("Tissue", (128, 128, 128)),)
    write_annotations(folder, Annotations(outline, tissue.values - 1, grey, image), name="tissue")
    record = {
        "slide": {"name": slide_path.name, "path": str(slide_path)},
        "model": {"name": "made", "version": "1"},
        "summary": {"slide": slide_path.name, "objects": len(objects), "Tumor_mm2": 0.1 + seed},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def texture(size=SIZE):
    """Return pixels that JPEG keeps well, and that differ everywhere."""
    rng = np.random.default_rng(7)
    noise = [gaussian_filter(rng.standard_normal(size), 12) for _ in range(3)]
    return np.stack([120 + 900 * plane for plane in noise], axis=-1).clip(0, 255).astype(np.uint8)


def index_of(one, stem="annotations"):
    """Return the index of objects, waiting until it was read."""
    while (found := one.objects(stem)) is None:
        time.sleep(0.01)
    return found
