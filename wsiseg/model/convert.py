"""TorchScript to ONNX, in a process of its own: `python -m wsiseg.model.convert <folder>`.

TorchScript is a program. It is run here only, and only when the user said that it is trusted;
what stays is an ONNX graph, which is data. The folder holds `request.json` (a card), `side.json`
(pixels to which patches are enlarged first, or null), `model.pt` and `inputs.npz`; `model.onnx` and
`output.npy` are written to it.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wsiseg.model.card import ModelCard
from wsiseg.model.export import OPSET
from wsiseg.model.preprocessed import PreprocessedNetwork

__all__ = ["convert"]


def convert(folder: Path) -> None:
    """Export the network of `model.pt` and record what it makes of the inputs."""
    stage = ModelCard.read(folder / "request.json").stages[0]
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        tensors = [torch.from_numpy(arrays[f"input{i}"]) for i in range(len(stage.inputs))]
    script: Any = (
        torch.jit.load(  # type: ignore[no-untyped-call]
            folder / "model.pt", map_location="cpu"
        )
        .eval()
        .float()
    )
    side = json.loads((folder / "side.json").read_text())
    if side is not None:
        script = _Enlarging(script, side).eval()
    module = PreprocessedNetwork(script, stage)
    with torch.inference_mode():
        np.save(folder / "output.npy", module(*tensors).numpy(), allow_pickle=False)
    ready = tuple(step(x) for step, x in zip(module.inputs, tensors, strict=True))
    names = [f"input{i}" for i in range(len(ready))]
    traced = torch.jit.trace(script, ready, check_trace=False)  # type: ignore[no-untyped-call]
    torch.onnx.export(
        traced,
        ready,
        str(folder / "model.onnx"),
        dynamo=False,
        opset_version=OPSET,
        input_names=names,
        output_names=["output"],
        dynamic_axes={name: {0: "n"} for name in [*names, "output"]},
    )


class _Enlarging(nn.Module):
    """A network that sees its patches enlarged."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network
        self.size = (side, side)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        large = functional.interpolate(patches, self.size, mode="bilinear", align_corners=False)
        output: torch.Tensor = self.network(large)
        return output


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # stderr is for the reason of a failure
    convert(Path(sys.argv[1]))
