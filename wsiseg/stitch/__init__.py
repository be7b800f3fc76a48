"""Tiles back to one array: blending in a moving front, reducers, OME-Zarr stores."""

from wsiseg.stitch.blend import Blend, window_weights
from wsiseg.stitch.heatmap import HeatmapStore
from wsiseg.stitch.labels import LabelClass, LabelStore
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.pyramid import PyramidWriter, writer_bytes
from wsiseg.stitch.reduce import (
    ArgmaxLabels,
    ArraySink,
    Probabilities,
    Reducer,
    Reducers,
    Sink,
    ThresholdLabels,
    decode,
)
from wsiseg.stitch.slab import Codes, Slab, Values
from wsiseg.stitch.stitcher import (
    CellStitcher,
    Stitcher,
    projected_bytes,
    stitch_tiles,
)
from wsiseg.stitch.store import ChunkRows
from wsiseg.stitch.uncertainty import (
    ClassPlanes,
    LayerCodes,
    LayerMean,
    NeighbourSpread,
    deviation,
    entropy,
    seen_by_neighbours,
)
from wsiseg.stitch.vectors import VectorStore, VectorWriter

__all__ = [
    "ArgmaxLabels",
    "ArraySink",
    "Blend",
    "CellStitcher",
    "ChunkRows",
    "ClassPlanes",
    "Codes",
    "HeatmapStore",
    "LabelClass",
    "LabelStore",
    "LayerCodes",
    "LayerMean",
    "NeighbourSpread",
    "Placement",
    "Probabilities",
    "PyramidWriter",
    "Reducer",
    "Reducers",
    "Sink",
    "Slab",
    "Stitcher",
    "ThresholdLabels",
    "Values",
    "VectorStore",
    "VectorWriter",
    "decode",
    "deviation",
    "entropy",
    "projected_bytes",
    "seen_by_neighbours",
    "stitch_tiles",
    "window_weights",
    "writer_bytes",
]
