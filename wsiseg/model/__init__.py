"""What is known about a network, and calling it: cards, packages, backends.

`load_model` is the way in. torch and ONNX Runtime are imported by the calls that need them.
"""

from wsiseg.model.accuracy import measure_int8, record_int8
from wsiseg.model.add import add_model
from wsiseg.model.card import ModelCard
from wsiseg.model.check import CheckReport, OutputChange
from wsiseg.model.importers.imported import Selection
from wsiseg.model.load import (
    Model,
    card_of,
    check_model,
    load_for_run,
    load_model,
    require_task,
    suits_gpu,
)
from wsiseg.model.package import Package, write_package
from wsiseg.model.predictor import Predictor
from wsiseg.model.registry import ModelEntry, describe, find_model, list_models
from wsiseg.model.to_wsinfer import write_wsinfer
from wsiseg.model.tuning import StageTuning, Tuning, tune

__all__ = [
    "CheckReport",
    "Model",
    "ModelCard",
    "ModelEntry",
    "OutputChange",
    "Package",
    "Predictor",
    "Selection",
    "StageTuning",
    "Tuning",
    "add_model",
    "card_of",
    "check_model",
    "describe",
    "find_model",
    "list_models",
    "load_for_run",
    "load_model",
    "measure_int8",
    "record_int8",
    "require_task",
    "suits_gpu",
    "tune",
    "write_package",
    "write_wsinfer",
]
