"""Results for other programs, and what other programs wrote as annotations for QuPath.

Everything starts from a finished result folder and is written a part at a time, so that memory does
not grow with the slide.
"""

from wsiseg.exchange.export import FORMATS, SCAN_FORMATS, export_result
from wsiseg.exchange.finished import FinishedResult, find_results
from wsiseg.exchange.finished_scan import FinishedScan
from wsiseg.exchange.imports import import_annotations, write_imported
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.exchange.tiles import HeatmapTiles, TileTable
from wsiseg.exchange.to_napari import napari_layers
from wsiseg.exchange.to_ro_crate import describe_in_place

__all__ = [
    "FORMATS",
    "SCAN_FORMATS",
    "ExportReport",
    "ExportRequest",
    "FinishedResult",
    "FinishedScan",
    "HeatmapTiles",
    "TileTable",
    "describe_in_place",
    "export_result",
    "find_results",
    "import_annotations",
    "napari_layers",
    "write_imported",
]
