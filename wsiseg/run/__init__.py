"""Many slides: which, one after the other, none of them ending the rest."""

from wsiseg.run.checkup import Checkup
from wsiseg.run.demo import run_demo
from wsiseg.run.describe import describe_slide
from wsiseg.run.doctor import examine
from wsiseg.run.embed import embed_folder
from wsiseg.run.folder import (
    FolderReport,
    failure_text,
    parse_bytes,
    plan_folder,
    segment_folder,
    tissue_folder,
)
from wsiseg.run.inputs import SlideJob, list_slides
from wsiseg.run.slide_table import parse_mpp
from wsiseg.run.tables import SlideReport
from wsiseg.run.tiles import export_tiles, tiles_folder

__all__ = [
    "Checkup",
    "FolderReport",
    "SlideJob",
    "SlideReport",
    "describe_slide",
    "embed_folder",
    "examine",
    "export_tiles",
    "failure_text",
    "list_slides",
    "parse_bytes",
    "parse_mpp",
    "plan_folder",
    "run_demo",
    "segment_folder",
    "tiles_folder",
    "tissue_folder",
]
