"""From masks to annotations: exact outlines in level-0 pixels, with measurements."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef
from wsiseg.annotations.base import ObjectType
from wsiseg.annotations.instances import InstanceRule, trace_instances
from wsiseg.annotations.measure import AREA, PROBABILITY, area_mm2, area_um2
from wsiseg.annotations.rectilinear import Held, Rectilinear
from wsiseg.annotations.simplify import drop_small, simplify
from wsiseg.annotations.trace import ToLevel0, TracedPolygons, trace_labels
from wsiseg.model import ModelCard
from wsiseg.model.card import InstanceSpec
from wsiseg.options import ExportOptions
from wsiseg.stitch import ChunkRows, HeatmapStore, LabelStore
from wsiseg.tissue import TissueMask

__all__ = ["AREA", "MEANS", "NUCLEUS_AREA", "PROBABILITY", "annotate_labels", "annotate_tissue"]

NUCLEUS_AREA = "wsiseg: Nucleus area mm^2"

MEANS: Mapping[str, str] = {
    "entropy": "wsiseg: Mean entropy",
    "overlap": "wsiseg: Mean overlap std",
    "tta": "wsiseg: Mean TTA std",
    "dropout": "wsiseg: Mean dropout std",
}
"""What the mean of each layer of uncertainty over an object is called."""

TRACED_PIXELS = 1 << 18
"""Mask pixels traced at once: some 15 MB at work, however wide the mask is."""

DEPTHS: Mapping[str, float] = {"none": 1.0, "distance": 0.75, "offsets": 0.3}
"""Of the ways between objects where the card states none: µm, or a share. Ours, not tuned; what
they give for nuclei stands in `benchmarks/README.md`."""

NO_LAYERS: Mapping[str, HeatmapStore] = MappingProxyType({})

TISSUE = AnnotationClass("Tissue", (128, 128, 128))


def annotate_labels(
    labels: LabelStore,
    heatmap: HeatmapStore,
    card: ModelCard,
    image: ImageRef,
    options: ExportOptions,
    *,
    layers: Mapping[str, HeatmapStore] = NO_LAYERS,
    offsets: HeatmapStore | None = None,
) -> Annotations:
    """Return the objects of a mask, each with its area, mean probability and mean uncertainty.

    Where the card says what an object is, they are told apart so, and become detections, or cells
    with their nuclei.

    Parameters
    ----------
    labels, heatmap
        The last stage's, on the same grid.
    image
        The slide; polygons are cut at its edge, since the last mask pixel may overhang.
    options
        Small objects and holes are dropped first, then outlines are simplified, if asked for.
    layers
        Uncertainty on the same grid, by name, a channel each.
    offsets
        What the network says of the places of pixels in their objects, on the same grid.
    """
    values = ChunkRows(labels.labels)
    probability = _OwnProbability(values, heatmap, card)
    place = ToLevel0(labels.downsample, labels.placement.origin, image.shape)
    block = _rows_at_once(labels.shape)
    averaged = {name: _OneChannel(store) for name, store in layers.items()}
    kind: ObjectType = options.object_type
    nuclei = None
    if card.instances is None:
        traced = trace_labels(
            values, probability=probability, layers=averaged, block=block, place=place
        )
    else:
        found = trace_instances(
            values,
            _rule(card.instances, card, labels.spacing.um[0]),
            offsets=offsets and ChunkRows(offsets.codes),
            probability=probability,
            layers=averaged,
            block=block,
            place=place,
        )
        traced, nuclei = found.traced, found.nuclei
        kind = "detection" if nuclei is None else "cell"
    classes = tuple(AnnotationClass(spec.name, spec.color) for spec in card.classes[1:])
    measured = {PROBABILITY: traced.probability} if traced.probability is not None else {}
    measured |= {MEANS[name]: means for name, means in traced.layers.items()}
    if nuclei is not None:
        measured[NUCLEUS_AREA] = _nucleus_area_mm2(nuclei, image)
    return _annotations(traced, classes, measured, image, options, kind, nuclei)


def annotate_tissue(tissue: TissueMask, image: ImageRef, options: ExportOptions) -> Annotations:
    """Return the pieces of tissue, each with its area."""
    mask = tissue.mask.view(np.uint8)
    place = ToLevel0(tissue.downsample, size=image.shape)
    traced = trace_labels(mask, block=_rows_at_once(mask.shape), place=place)
    return _annotations(traced, (TISSUE,), {}, image, options, options.object_type)


def _annotations(
    traced: TracedPolygons,
    classes: tuple[AnnotationClass, ...],
    measured: dict[str, NDArray[np.float64]],
    image: ImageRef,
    options: ExportOptions,
    kind: ObjectType,
    nuclei: NDArray[np.object_] | None = None,
) -> Annotations:
    outlines, kept, areas = _shaped(traced.outlines, image, options)
    measurements = {AREA: areas / 1e6}
    measurements |= {name: column[kept] for name, column in measured.items()}
    return Annotations(
        geometries=outlines,
        class_index=traced.values[kept] - 1,
        classes=classes,
        image=image,
        measurements=measurements,
        object_type=kind,
        nuclei=None if nuclei is None else nuclei[kept],
    )


def _shaped(
    outlines: Rectilinear, image: ImageRef, options: ExportOptions
) -> tuple[Held, NDArray[np.int64], NDArray[np.float64]]:
    """Return the outlines as asked for, the rows they come from, and their areas in µm²."""
    pixel = image.spacing.um
    if not (options.min_hole_um2 or options.simplify_um):
        areas = area_um2(outlines, pixel=pixel)
        kept = np.flatnonzero(areas >= options.min_area_um2)
        return outlines.take(kept), kept, areas[kept]
    # What lies in a hole, and who shares a border, can only be told with all of them there.
    polygons, kept = drop_small(
        outlines.to_shapely(),
        min_area=options.min_area_um2,
        min_hole=options.min_hole_um2,
        pixel_area=image.spacing.area_um2,
    )
    polygons = simplify(polygons, options.simplify_um, pixel=pixel)
    return polygons, kept, area_um2(polygons, pixel=pixel)


def _nucleus_area_mm2(nuclei: NDArray[np.object_], image: ImageRef) -> NDArray[np.float64]:
    """Return the area of each nucleus, NaN for cells without one."""
    there = np.array([nucleus is not None for nucleus in nuclei], bool)
    areas = np.full(len(nuclei), np.nan)
    areas[there] = area_mm2(nuclei[there], pixel=image.spacing.um)
    return areas


def _rule(spec: InstanceSpec, card: ModelCard, pixel_um: float) -> InstanceRule:
    """Return the card's rule in pixels and labels of the mask."""
    depth = DEPTHS[spec.split] if spec.depth is None else spec.depth
    names = [item.name for item in card.classes]
    return InstanceRule(
        spec.split,
        depth / pixel_um if spec.split == "distance" else depth,
        None if spec.cell is None else names.index(spec.cell),
        None if spec.nucleus is None else names.index(spec.nucleus),
    )


def _rows_at_once(shape: Sequence[int]) -> int:
    return max(16, TRACED_PIXELS // shape[1])


class _OwnProbability:
    """Codes of the probability of each pixel's own class, read in rows like the labels."""

    def __init__(self, labels: ChunkRows, heatmap: HeatmapStore, card: ModelCard) -> None:
        self.shape = labels.shape
        self._labels = labels
        self._codes = ChunkRows(heatmap.codes)
        names = [spec.name for spec in card.classes]
        self._channel = {names.index(name): i for i, name in enumerate(heatmap.channels)}

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        labels, codes = self._labels[rows], self._codes[rows]
        out = np.zeros(labels.shape, np.uint8)
        for value, channel in self._channel.items():
            np.copyto(out, codes[channel], where=labels == value)
        return out


class _OneChannel:
    """Codes of the only channel of a store, read in rows like the labels."""

    def __init__(self, store: HeatmapStore) -> None:
        self._codes = ChunkRows(store.codes)
        self.shape = self._codes.shape

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        (codes,) = self._codes[rows]
        return np.asarray(codes)
