"""Doing it: plan, read ahead, predict, stitch, annotate, and say where it all came from."""

from wsiseg.engine.annotate import annotate_labels, annotate_tissue
from wsiseg.engine.cascade import CascadeOutput, rest_later_stages, run_cascade
from wsiseg.engine.damage import (
    Damage,
    DamageWatch,
    lost_places,
    with_degraded_shares,
)
from wsiseg.engine.decoding import EXACT, DecodingChoice, choose_decoding
from wsiseg.engine.events import Event, Listener, StageFinished, StageStarted, TilesDone, ignore
from wsiseg.engine.execute import StageReport, run_stage
from wsiseg.engine.folders import link_tree, temporary_folder
from wsiseg.engine.graph import StageSetup, lay_out, select_tiles
from wsiseg.engine.inputs import connect
from wsiseg.engine.journal import Journal
from wsiseg.engine.output import Publishing, finished_folder
from wsiseg.engine.parts import Part, begin_parts, run_part
from wsiseg.engine.plan import Plan, StagePlan, make_plan
from wsiseg.engine.provenance import fingerprint, run_record, summary_head, versions
from wsiseg.engine.resume import Pinned, Resume
from wsiseg.engine.sampling import sampled_model
from wsiseg.engine.share import share_levels
from wsiseg.engine.uncertainty import require_layers
from wsiseg.engine.windows import choose_window

__all__ = [
    "EXACT",
    "CascadeOutput",
    "Damage",
    "DamageWatch",
    "DecodingChoice",
    "Event",
    "Journal",
    "Listener",
    "Part",
    "Pinned",
    "Plan",
    "Publishing",
    "Resume",
    "StageFinished",
    "StagePlan",
    "StageReport",
    "StageSetup",
    "StageStarted",
    "TilesDone",
    "annotate_labels",
    "annotate_tissue",
    "begin_parts",
    "choose_decoding",
    "choose_window",
    "connect",
    "fingerprint",
    "finished_folder",
    "ignore",
    "lay_out",
    "link_tree",
    "lost_places",
    "make_plan",
    "require_layers",
    "rest_later_stages",
    "run_cascade",
    "run_part",
    "run_record",
    "run_stage",
    "sampled_model",
    "select_tiles",
    "share_levels",
    "summary_head",
    "temporary_folder",
    "versions",
    "with_degraded_shares",
]
