"""Result folders as `wsiseg segment` leaves them, made of noise: several classes, holes, bounds."""

import json
from pathlib import Path

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, write_annotations
from wsiseg.annotations.measure import AREA, PROBABILITY, area_mm2
from wsiseg.annotations.trace import to_level0, trace_labels
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import HeatmapStore, LabelClass, LabelStore, Placement

CLASSES = (
    LabelClass("background", (0, 0, 0)),
    LabelClass("Tumor", (200, 0, 0)),
    LabelClass("Immune: CD3é", (160, 90, 160)),
)
ODD = (
    LabelClass("Hintergrund", (0, 0, 0)),
    LabelClass("Tumor, \"in situ\" — <5 % & 'x'", (200, 0, 0)),
    LabelClass("Größe: \\ 腫瘍", (160, 90, 160)),
)
"""Classes with names that some formats must quote, escape or encode."""

MPP = (0.5, 0.25)  # y, x
DOWNSAMPLE = (2.0, 4.0)
SHAPE = (700, 610)
SIZE = (1399, 2439)  # the last mask pixel overhangs
IMAGE = ImageRef("case é.svs", SIZE, Spacing(MPP), "aperio")
MIRAX = ImageRef("case é.mrxs", SIZE, Spacing(MPP), "mirax", Box((100, 200), (1300, 2300)))


def probabilities(seed: int = 0, shape=SHAPE) -> np.ndarray:
    """Return smooth codes (channel, y, x) of class probabilities, with nodata around."""
    rng = np.random.default_rng(seed)
    noise = np.stack([gaussian_filter(rng.standard_normal(shape), 8) for _ in CLASSES])
    share = np.exp(130 * noise)
    codes = np.rint(1 + 254 * share / share.sum(axis=0)).astype(np.uint8)
    codes[:, :37] = 0
    codes[:, :, -53:] = 0
    return codes


def make_result(
    folder: Path, image: ImageRef = IMAGE, *, codes: np.ndarray | None = None, **written
) -> Path:
    """Write mask, heatmap, annotations, tissue and `run.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = probabilities() if codes is None else codes
    shape = codes.shape[1:]
    spacing = Spacing((1.0, 1.0))
    placement = Placement(shape, spacing, tuple(spacing.ratio_to(image.spacing)))
    labels = np.where(codes[0] > 0, codes.argmax(axis=0), 0).astype(np.uint8)
    colors = {item.name: item.color for item in CLASSES}
    names = [item.name for item in CLASSES]
    whole = Box((0, 0), shape)
    with HeatmapStore.create(
        folder / "heatmap.zarr", placement, channels=names, colors=colors
    ) as writer:
        writer.write(whole, np.moveaxis(codes, 0, -1))
        writer.finish()
    with LabelStore.create(folder / "mask.zarr", placement, classes=CLASSES) as writer:
        writer.write(whole, labels)
        writer.finish()
    write_annotations(folder, objects(labels, codes, image), **written)
    write_annotations(folder, tissue(codes, image), name="tissue")
    record = {"slide": {"name": image.name}, "model": {"name": "made", "version": "1"}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def objects(labels: np.ndarray, codes: np.ndarray, image: ImageRef = IMAGE) -> Annotations:
    own = np.take_along_axis(codes, labels[np.newaxis].astype(np.intp), axis=0)[0]
    traced = trace_labels(labels, probability=own)
    polygons = to_level0(traced.geometries, downsample=DOWNSAMPLE, size=image.shape)
    measured = {AREA: area_mm2(polygons, pixel=image.spacing.um), PROBABILITY: traced.probability}
    classes = tuple(AnnotationClass(item.name, item.color) for item in CLASSES[1:])
    return Annotations(polygons, traced.values - 1, classes, image, measured)


def tissue(codes: np.ndarray, image: ImageRef = IMAGE) -> Annotations:
    halves = (codes[0] > 0).astype(np.uint8)
    halves[:, halves.shape[1] // 2] = 0  # two pieces
    traced = trace_labels(halves)
    polygons = to_level0(traced.geometries, downsample=DOWNSAMPLE, size=image.shape)
    grey = (AnnotationClass("Tissue", (128, 128, 128)),)
    return Annotations(polygons, np.zeros(len(polygons), np.int64), grey, image)


def mask_area(folder: Path, image: ImageRef = IMAGE) -> dict[str, float]:
    """Return the level-0 pixels of each class of the mask that lie in the image QuPath shows."""
    store = LabelStore.open(folder / "mask.zarr")
    labels = np.asarray(store.labels)
    low, high = (
        ((0, 0), image.shape) if image.bounds is None else (image.bounds.start, image.bounds.stop)
    )
    sides = []
    for axis in (0, 1):
        edges = np.arange(labels.shape[axis] + 1) * store.downsample[axis]
        sides.append(np.diff(np.clip(edges, low[axis], high[axis])))
    weight = sides[0][:, np.newaxis] * sides[1]
    return {
        name: float(weight[labels == value].sum())
        for value, name in enumerate(store.names)
        if value
    }


def feature_area(features: list[dict]) -> dict[str, float]:
    """Return the area of each class in GeoJSON, read without wsiseg."""
    areas: dict[str, float] = {}
    for feature in features:
        name = feature["properties"].get("classification", {}).get("name")
        area = shapely.geometry.shape(feature["geometry"]).area
        areas[name] = areas.get(name, 0.0) + area
        for name, area in feature_area(feature["properties"].get("childObjects", [])).items():
            areas[name] = areas.get(name, 0.0) + area
    return areas
