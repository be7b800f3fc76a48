"""Many slides: which, one after the other or shared by processes, none of them ending the rest.

`demo`, `doctor` and `embed` are loaded by those who name them: a segmentation starts without.
"""

from wsiseg.run.channels import scan_of_channels
from wsiseg.run.describe import describe_slide
from wsiseg.run.describe_scans import describe_scan, scans_and_others
from wsiseg.run.inputs import SeriesChoice, SlideJob, hold_scans, list_slides
from wsiseg.run.limits import parse_bytes, parse_seconds
from wsiseg.run.planning import plan_folder
from wsiseg.run.reports import FolderReport, SlideReport, failure_text
from wsiseg.run.segment import segment_folder, segment_slide
from wsiseg.run.slide_table import parse_mpp
from wsiseg.run.tiles import export_tiles, tiles_folder
from wsiseg.run.tissue import tissue_folder

__all__ = [
    "FolderReport",
    "SeriesChoice",
    "SlideJob",
    "SlideReport",
    "describe_scan",
    "describe_slide",
    "export_tiles",
    "failure_text",
    "hold_scans",
    "list_slides",
    "parse_bytes",
    "parse_mpp",
    "parse_seconds",
    "plan_folder",
    "scan_of_channels",
    "scans_and_others",
    "segment_folder",
    "segment_slide",
    "tiles_folder",
    "tissue_folder",
]
