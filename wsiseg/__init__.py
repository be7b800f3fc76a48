"""Whole-slide images and CT/MRI volumes in, annotations out.

The flow, in order::

    slide = wsiseg.open("case.svs")                        # source: a lazy pyramid
    tissue = wsiseg.find_tissue(slide)                     # tissue: where it is worth looking
    model = wsiseg.load_model("breast-tumour-demo")        # model: a card and its networks
    plan = wsiseg.plan(slide, model)                       # engine: tiles, bytes, seconds
    result = wsiseg.segment(slide, model)                  # engine -> stitch -> annotations
    result.write("out/")                                   # files people open

Scans (`open_volume`) go through the same `plan` and `segment`.

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "open": "wsiseg.source",
    "Pyramid": "wsiseg.source",
    "Level": "wsiseg.source",
    "View": "wsiseg.source",
    "Volume": "wsiseg.source",
    "open_volume": "wsiseg.source",
    "is_volume": "wsiseg.source",
    "Affine": "wsiseg.geometry",
    "Box": "wsiseg.geometry",
    "Spacing": "wsiseg.geometry",
    "LevelInfo": "wsiseg.geometry",
    "Grid": "wsiseg.grid",
    "Tile": "wsiseg.grid",
    "TissueMask": "wsiseg.tissue",
    "find_tissue": "wsiseg.tissue",
    "Model": "wsiseg.model",
    "ModelCard": "wsiseg.model",
    "load_model": "wsiseg.model",
    "list_models": "wsiseg.model",
    "Plan": "wsiseg.engine",
    "Journal": "wsiseg.engine",
    "Annotations": "wsiseg.annotations",
    "write_geojson": "wsiseg.annotations",
    "read_geojson": "wsiseg.annotations",
    "fix_geojson": "wsiseg.annotations",
    "verify_geojson": "wsiseg.annotations",
    "HeatmapStore": "wsiseg.stitch",
    "Result": "wsiseg.result",
    "Embeddings": "wsiseg.embedding",
    "embed": "wsiseg.embedding",
    "ScanResult": "wsiseg.scan_result",
    "plan": "wsiseg.segmenting",
    "segment": "wsiseg.segmenting",
    "segment_folder": "wsiseg.run",
    "SegmentOptions": "wsiseg.options",
    "EmbedOptions": "wsiseg.options",
    "TissueOptions": "wsiseg.options",
    "UncertaintyOptions": "wsiseg.options",
    "DamageOptions": "wsiseg.options",
    "ExportOptions": "wsiseg.options",
    "RunOptions": "wsiseg.options",
    "FolderOptions": "wsiseg.options",
    "WsisegError": "wsiseg.errors",
    "WsisegWarning": "wsiseg.errors",
}

__all__ = [
    "Affine",
    "Annotations",
    "Box",
    "DamageOptions",
    "EmbedOptions",
    "Embeddings",
    "ExportOptions",
    "FolderOptions",
    "Grid",
    "HeatmapStore",
    "Journal",
    "Level",
    "LevelInfo",
    "Model",
    "ModelCard",
    "Plan",
    "Pyramid",
    "Result",
    "RunOptions",
    "ScanResult",
    "SegmentOptions",
    "Spacing",
    "Tile",
    "TissueMask",
    "TissueOptions",
    "UncertaintyOptions",
    "View",
    "Volume",
    "WsisegError",
    "WsisegWarning",
    "__version__",
    "embed",
    "find_tissue",
    "fix_geojson",
    "is_volume",
    "list_models",
    "load_model",
    "open",
    "open_volume",
    "plan",
    "read_geojson",
    "segment",
    "segment_folder",
    "verify_geojson",
    "write_geojson",
]

if TYPE_CHECKING:
    from wsiseg.annotations import (
        Annotations,
        fix_geojson,
        read_geojson,
        verify_geojson,
        write_geojson,
    )
    from wsiseg.embedding import Embeddings, embed
    from wsiseg.engine import Journal, Plan
    from wsiseg.errors import WsisegError, WsisegWarning
    from wsiseg.geometry import Affine, Box, LevelInfo, Spacing
    from wsiseg.grid import Grid, Tile
    from wsiseg.model import Model, ModelCard, list_models, load_model
    from wsiseg.options import (
        DamageOptions,
        EmbedOptions,
        ExportOptions,
        FolderOptions,
        RunOptions,
        SegmentOptions,
        TissueOptions,
        UncertaintyOptions,
    )
    from wsiseg.result import Result
    from wsiseg.run import segment_folder
    from wsiseg.scan_result import ScanResult
    from wsiseg.segmenting import plan, segment
    from wsiseg.source import Level, Pyramid, View, Volume, is_volume, open, open_volume
    from wsiseg.stitch import HeatmapStore
    from wsiseg.tissue import TissueMask, find_tissue


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    if name not in _HOMES:
        raise AttributeError(f"module 'wsiseg' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
