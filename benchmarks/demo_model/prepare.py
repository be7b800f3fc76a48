"""Labels, data sets and configurations of the demonstration model's next version.

    python benchmarks/demo_model/prepare.py DATA OUT

`DATA` holds `histology/bcss` and `histology/brecahad`. Writes three folders, each with
`dataset.toml` and `config.toml` (from `recipe.toml`, the same for all): `1008` and `1015` train on
one region of BCSS to be tested on the other, `both` makes the model that would be bundled.

BCSS (Amgad et al. 2019, doi:10.1093/bioinformatics/btz083, CC0): outlines of tumour, complete; they
become GeoJSON. BreCaHAD (Aksac et al. 2019, doi:10.1186/s13104-019-4121-7, CC BY 4.0): discs on
tumour nuclei, which say little about outlines, so they are weak labels: what is at most 3 µm from a
disc is tumour, what is 10 µm away or more is not, and nothing is said in between. Its pixel size is
not published with the images; 0.15 µm is what makes its tumour nuclei as large as those of BCSS.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.trace import trace_labels

HERE = Path(__file__).resolve().parent
REGIONS = ("1008", "1015")
MPP = {"bcss": 0.25, "brecahad": 0.15}
TUMOUR_UM, BACKGROUND_UM = 3.0, 10.0
UNKNOWN = 255
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    data, out = args.data.resolve(), args.out.resolve()
    (out / "labels").mkdir(parents=True, exist_ok=True)
    recipe = (HERE / "recipe.toml").read_text()
    weak = weak_images(data, out)
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
