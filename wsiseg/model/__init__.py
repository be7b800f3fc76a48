"""What is known about a network, and calling it: cards, packages, backends.

`load_model` is the way in. torch and ONNX Runtime are imported by the calls that need them.
"""

from wsiseg.model.add import add_model
from wsiseg.model.card import ModelCard
from wsiseg.model.check import CheckReport
from wsiseg.model.load import Model, check_model, load_model
from wsiseg.model.package import Package, write_package
from wsiseg.model.predictor import Predictor
from wsiseg.model.registry import ModelEntry, describe, find_model, list_models

__all__ = [
    "CheckReport",
    "Model",
    "ModelCard",
    "ModelEntry",
    "Package",
    "Predictor",
    "add_model",
    "check_model",
    "describe",
    "find_model",
    "list_models",
    "load_model",
    "write_package",
]
