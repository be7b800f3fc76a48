"""TorchScript to ONNX, in a process of its own: `python -m wsiseg.model.convert <folder>`.

TorchScript is a program. It is run here only, and only when the user said that it is trusted;
what stays is an ONNX graph, which is data. The folder holds `request.json` (a card),
`model.pt` and `inputs.npz`; `model.onnx` and `output.npy` are written to it.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from wsiseg.model.card import ModelCard
from wsiseg.model.export import OPSET
from wsiseg.model.preprocessed import PreprocessedNetwork

__all__ = ["convert"]


def convert(folder: Path) -> None:
    """Export the network of `model.pt` and record what it makes of the inputs."""
    stage = ModelCard.read(folder / "request.json").stages[0]
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        tensors = [torch.from_numpy(arrays[f"input{i}"]) for i in range(len(stage.inputs))]
    script = (
        torch.jit.load(  # type: ignore[no-untyped-call]
            folder / "model.pt", map_location="cpu"
        )
        .eval()
        .float()
    )
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


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # stderr is for the reason of a failure
    convert(Path(sys.argv[1]))
