"""Images with outlined nuclei: which are learned from, which are scored, and what a pixel is.

Two public sets, both CC0: 15 tiles of NuCLS (H&E breast, 256 px at 0.25 µm; 10 to learn from, 5 to
score, as they come), and the 97 stained images of DSB 2018 (BBBC038, unknown pixel size, taken for
0.25 µm; every fifth by name is scored). Neighbouring crops of one slide may fall on both sides in
the second set, and whose tissue it is is not known: its scores are not those of new patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

__all__ = ["IMAGE_UM", "SPACING_UM", "Nuclei", "offsets", "read_nuclei"]

IMAGE_UM = 0.25
"""µm per pixel of the images."""

SPACING_UM = 0.5
"""Of what the model sees."""

SCORED = 5


@dataclass(frozen=True, slots=True)
class Nuclei:
    """An image and its nuclei."""

    name: str
    source: str
    """`nucls` or `dsb2018`."""

    is_scored: bool
    pixels: NDArray[np.uint8]
    """(y, x, 3)."""

    instances: NDArray[np.int32]
    """(y, x); 0 is no nucleus."""


def read_nuclei(data: Path) -> Iterator[Nuclei]:
    """Yield all images; `data` is the folder with `cellvit_examples` and `dsb2018_he`."""
    nucls = data / "cellvit_examples" / "Example-Segmentation"
    for split in ("train", "test"):
        for path in sorted((nucls / split / "images").glob("*.png")):
            # The set's own format: an array that holds a dict. Only for files one trusts.
            labels = np.load(nucls / split / "labels" / f"{path.stem}.npy", allow_pickle=True)
            instances = labels.item()["inst_map"].astype(np.int32)
            yield Nuclei(path.stem, "nucls", split == "test", _rgb(path), instances)
    for i, path in enumerate(sorted((data / "dsb2018_he" / "images").glob("*.png"))):
        with Image.open(data / "dsb2018_he" / "instances" / path.name) as image:
            instances = np.asarray(image).astype(np.int32)
        yield Nuclei(path.stem, "dsb2018", i % SCORED == 0, _rgb(path), instances)


def offsets(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return how far each pixel lies from the centre of its nucleus, float32 (y, x, 2), -1 to 1.

    Down and to the right; each side of the centre is as long as 1 (Graham et al. 2019, HoVer-Net,
    doi:10.1016/j.media.2019.101563). 0 outside of nuclei.
    """
    found = np.zeros((*instances.shape, 2), np.float32)
    for value, box in enumerate(ndimage.find_objects(instances), start=1):
        if box is None:
            continue
        inside = instances[box] == value
        for axis, place in enumerate(np.nonzero(inside)):
            from_centre = place - place.mean()
            ends = np.where(from_centre < 0, -from_centre.min(), from_centre.max())
            scaled = np.divide(from_centre, ends, out=np.zeros_like(from_centre), where=ends > 0)
            found[box][..., axis][inside] = scaled
    return found


def _rgb(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
