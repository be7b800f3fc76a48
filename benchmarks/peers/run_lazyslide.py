"""LazySlide's tile prediction on one slide: `run_lazyslide.py SLIDE MODEL OUT`, then a JSON line.

As its documentation runs it: its own tissue, tiles of that tissue, a model object, everything
written to one store; with 32 tiles per batch instead of 16.
"""

import json
import sys
from pathlib import Path

import lazyslide as zs
import torch
from torchvision.transforms.v2 import Compose, ToDtype, ToImage
from wsidata import open_wsi

PATCH, SPACING_UM = 256, 0.5


class Scripted:
    """A TorchScript classifier in LazySlide's terms."""

    def __init__(self, path: Path) -> None:
        self.network = torch.jit.load(path, map_location="cpu").eval()

    def to(self, device: str) -> "Scripted":
        self.network.to(device)
        return self

    def get_transform(self) -> Compose:
        return Compose([ToImage(), ToDtype(torch.float32, scale=True)])

    def predict(self, images: torch.Tensor) -> dict[str, object]:
        return {"tumor": torch.softmax(self.network(images), dim=1)[:, 1].cpu().numpy()}


def main() -> None:
    slide, model, out = map(Path, sys.argv[1:])
    wsi = open_wsi(str(slide), store=str(out / "slide.zarr"))
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, PATCH, mpp=SPACING_UM)
    zs.tl.tile_prediction(wsi, Scripted(model / "torchscript_model.pt"), batch_size=32)
    wsi.write(overwrite=True)
    print(json.dumps({"tiles": len(wsi.shapes["tiles"])}))


if __name__ == "__main__":
    main()
