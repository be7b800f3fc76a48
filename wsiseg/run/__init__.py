"""Many slides: which, one after the other, none of them ending the rest."""

from wsiseg.run.demo import run_demo
from wsiseg.run.describe import describe_slide
from wsiseg.run.folder import (
    FolderReport,
    SlideReport,
    parse_bytes,
    plan_folder,
    segment_folder,
    tissue_folder,
)
from wsiseg.run.inputs import SlideJob, list_slides
from wsiseg.run.tiles import export_tiles, tiles_folder

__all__ = [
    "FolderReport",
    "SlideJob",
    "SlideReport",
    "describe_slide",
    "export_tiles",
    "list_slides",
    "parse_bytes",
    "plan_folder",
    "run_demo",
    "segment_folder",
    "tiles_folder",
    "tissue_folder",
]
