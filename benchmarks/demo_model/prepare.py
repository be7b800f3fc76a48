"""Labels, data sets and configurations of the demonstration model's next version.

    python benchmarks/demo_model/prepare.py DATA OUT

`DATA` holds `histology/bcss`, `brecahad` and `cellvit_examples`. Writes three folders, each with
`dataset.toml` and `config.toml` (from `recipe.toml`, the same for all): `1008` and `1015` train on
one region of BCSS to be tested on the other, `both` makes the model that would be bundled.

BCSS (Amgad et al. 2019, doi:10.1093/bioinformatics/btz083, CC0): outlines of tumour, complete; they
become GeoJSON. BreCaHAD (Aksac et al. 2019, doi:10.1186/s13104-019-4121-7, CC BY 4.0): discs on
tumour nuclei, which say little about outlines, so they are weak labels: what is at most 3 µm from a
disc is tumour, what is 10 µm away or more is not, and nothing is said in between. Its pixel size is
not published with the images; 0.15 µm is what makes its tumour nuclei as large as those of BCSS.

NuCLS (Amgad et al. 2022, doi:10.1093/gigascience/giac037, CC0; tiles of CellViT's example):
lymphocytes and stroma, of which the others have little. Tiles were chosen by eye, by no
pathologist, for showing no tumour, and are background all over; the labels that come with them do
not tell lymphocytes from tumour, and are not used. A tile is as small as a patch, so it is mirrored
until patches have surroundings. The slides of the tiles are not published with them; the stain of
each lies outside the range of either region of BCSS (`stain_ranges` tells), hence none is of a
slide that is tested on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.trace import trace_labels

HERE = Path(__file__).resolve().parent
REGIONS = ("1008", "1015")
MPP = {"bcss": 0.25, "brecahad": 0.15, "nucls": 0.25}
STRENGTH = {"bcss": "outlines", "brecahad": "marks", "nucls": "marks"}
TUMOUR_UM, BACKGROUND_UM = 3.0, 10.0
WITHOUT_TUMOUR = {
    "train_2": 256, "train_5": 256, "train_6": 256, "train_7": 256, "train_8": 128,
    "test_3": 256, "test_4": 256,
}  # fmt: skip
"""Tiles of NuCLS, and how many rows of each, from the top, show no tumour."""

MIRRORED = 2
"""Each NuCLS tile is doubled this often along both axes."""

UNKNOWN = 255
GLASS = 0.35
"""What is paler than this optical density is no tissue."""

TILE = 256
HEAD = """classes = ["background", "Tumor"]

[labels]
ignore = ["255"]
mapping = {"Tumor" = "Tumor", "0" = "background", "1" = "Tumor"}
"""


def outlines(mask: NDArray[np.uint8]) -> str:
    """Return the GeoJSON of a mask, as QuPath would export it."""
    traced = trace_labels((mask > 127).astype(np.uint8))
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(geometry),
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
        for geometry in traced.geometries
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def weak_labels(discs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 near a disc, 0 far from all, else `UNKNOWN`."""
    outside = (discs <= 127).astype(np.uint8)
    distance_um = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance_um *= MPP["brecahad"]
    labels = np.full(discs.shape, UNKNOWN, np.uint8)
    labels[distance_um <= TUMOUR_UM] = 1
    labels[distance_um >= BACKGROUND_UM] = 0
    return labels


def entry(slide: Path, labels: Path, patient: str, source: str, split: str = "train") -> str:
    return (
        f'\n[[slides]]\nslide = "{slide}"\nlabels = "{labels}"\npatient = "{patient}"\n'
        f'split = "{split}"\nmpp = {MPP[source]}\nsource = "{source}"\n'
        f'strength = "{STRENGTH[source]}"\n'
    )


def region(data: Path, out: Path, name: str, split: str = "train") -> str:
    labels = out / "labels" / f"{name}.geojson"
    mask = cv2.imread(str(data / f"histology/bcss/masks/{name}.png"), cv2.IMREAD_GRAYSCALE)
    labels.write_text(outlines(mask))
    slide = data / f"histology/bcss/images/{name}.jpg"
    return entry(slide, labels, name, "bcss", split)


def weak_images(data: Path, out: Path) -> str:
    entries = []
    for slide in sorted((data / "histology/brecahad/images").iterdir()):
        (mask,) = (data / "histology/brecahad/masks").glob(f"{slide.stem}.*")
        labels = out / "labels" / f"{slide.stem}.png"
        cv2.imwrite(str(labels), weak_labels(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)))
        entries.append(entry(slide, labels, slide.stem, "brecahad"))
    return "".join(entries)


def mirrored(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return a picture `2 ** MIRRORED` times as long and wide, without seams."""
    for _ in range(MIRRORED):
        pixels = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
        pixels = np.concatenate([pixels, pixels[::-1]], axis=0)
    return pixels


def tumour_free_tiles(data: Path, out: Path) -> str:
    entries = []
    for name, rows in WITHOUT_TUMOUR.items():
        slide, labels = out / "tiles" / f"{name}.png", out / "labels" / f"{name}.png"
        pixels = mirrored(nucls_tile(data, name)[:rows])
        cv2.imwrite(str(slide), pixels)
        cv2.imwrite(str(labels), np.zeros(pixels.shape[:2], np.uint8))
        entries.append(entry(slide, labels, f"nucls-{name}", "nucls"))
    return "".join(entries)


def nucls_tile(data: Path, name: str) -> NDArray[Any]:
    folder = data / "histology/cellvit_examples/Example-Segmentation" / name.partition("_")[0]
    return cv2.imread(str(folder / "images" / f"{name}.png"))


def stroma_stain(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the direction in optical density (R, G, B) of the paler half of the tissue."""
    density = -np.log((pixels.reshape(-1, 3)[:, ::-1] + 1.0) / 256)
    total = density.sum(axis=1)
    density, total = density[total > GLASS], total[total > GLASS]
    mean = density[total < np.median(total)].mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def stain_ranges(data: Path) -> None:
    """Print which tiles of NuCLS are stained as some part of a region of BCSS is."""
    stains = {name: stroma_stain(nucls_tile(data, name)) for name in WITHOUT_TUMOUR}
    for part in REGIONS:
        region = cv2.imread(str(data / f"histology/bcss/images/{part}.jpg"))
        cuts = [
            stroma_stain(region[y : y + TILE, x : x + TILE])
            for y in range(0, region.shape[0] - TILE + 1, TILE)
            for x in range(0, region.shape[1] - TILE + 1, TILE)
        ]
        low, high = np.min(cuts, axis=0), np.max(cuts, axis=0)
        alike = [name for name, stain in stains.items() if ((low <= stain) & (stain <= high)).all()]
        print(f"{part}: stroma from {low.round(3)} to {high.round(3)}; tiles like it: {alike}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    data, out = args.data.resolve(), args.out.resolve()
    for folder in ("labels", "tiles"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    recipe = (HERE / "recipe.toml").read_text()
    stain_ranges(data)
    weak = weak_images(data, out) + tumour_free_tiles(data, out)
    first, second = REGIONS
    sets = {
        first: region(data, out, first) + region(data, out, second, "test"),
        second: region(data, out, second) + region(data, out, first, "test"),
        "both": region(data, out, first) + region(data, out, second),
    }
    for name, regions in sets.items():
        folder = out / name
        folder.mkdir(exist_ok=True)
        (folder / "dataset.toml").write_text(HEAD + regions + weak)
        (folder / "config.toml").write_text(recipe)
        print(folder)


if __name__ == "__main__":
    main()
