"""TIAToolbox's patch predictor on one slide: `run_tiatoolbox.py SLIDE MODEL OUT`, then a JSON line.

As its documentation runs it: its own tissue mask, its default output (zarr) and no workers, with
32 patches per batch instead of 8.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import zarr
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC

PATCH, SPACING_UM = 256, 0.5


class Scripted(ModelABC):
    """A TorchScript classifier in TIAToolbox's terms."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = torch.jit.load(path, map_location="cpu").eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(images), dim=1)

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, device: str) -> np.ndarray:
        images = batch_data.to(device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return model(images).cpu().numpy()


def main() -> None:
    slide, model, out = map(Path, sys.argv[1:])
    predictor = PatchPredictor(Scripted(model / "torchscript_model.pt"), batch_size=32)
    written = predictor.run(
        [slide],
        patch_mode=False,
        ioconfig=IOPatchPredictorConfig(
            input_resolutions=[{"units": "mpp", "resolution": SPACING_UM}],
            patch_input_shape=[PATCH, PATCH],
            stride_shape=[PATCH, PATCH],
        ),
        return_probabilities=True,
        save_dir=out,
    )
    store = zarr.open(str(next(iter(written.values()))), mode="r")
    print(json.dumps({"tiles": store["coordinates"].shape[0]}))


if __name__ == "__main__":
    main()
