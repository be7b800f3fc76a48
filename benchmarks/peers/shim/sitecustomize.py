"""Lets torchvision load beside a CPU build of torch, for which there are no compiled operators.

On the module search path (`PYTHONPATH`) of the peers' processes. torchvision registers fakes
of two of its operators when imported, which fails where they are missing; they are declared here
first, and never called by what is measured.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMES = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
kept = []  # a library that is collected takes its operators with it


class BeforeTorchvision(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for name in NAMES:
                library.define(name + SCHEMA)
            kept.append(library)
        return None


sys.meta_path.insert(0, BeforeTorchvision())
