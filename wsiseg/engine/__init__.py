"""Doing it: plan, read ahead, predict, stitch, annotate, and say where it all came from."""

from wsiseg.engine.annotate import annotate_labels, annotate_tissue, image_ref
from wsiseg.engine.cascade import CascadeOutput, run_cascade
from wsiseg.engine.events import Event, Listener, StageFinished, StageStarted, TilesDone, ignore
from wsiseg.engine.execute import StageReport
from wsiseg.engine.graph import StageSetup, lay_out
from wsiseg.engine.output import as_run_error, finished_folder
from wsiseg.engine.plan import Plan, StagePlan, make_plan
from wsiseg.engine.provenance import fingerprint, versions

__all__ = [
    "CascadeOutput",
    "Event",
    "Listener",
    "Plan",
    "StageFinished",
    "StagePlan",
    "StageReport",
    "StageSetup",
    "StageStarted",
    "TilesDone",
    "annotate_labels",
    "annotate_tissue",
    "as_run_error",
    "fingerprint",
    "finished_folder",
    "ignore",
    "image_ref",
    "lay_out",
    "make_plan",
    "run_cascade",
    "versions",
]
