"""The bundled demonstration for volumes: the spinal cord in MR, learned from two scans on a CPU.

    python benchmarks/demo_volume/train.py ../shared/data/volumes/sct_testing_data WORK

Trains what `config.toml` says by `wsiseg train`, and prints the Dice on what it learned from and on
a T1-weighted scan that it did not see. Scans and masks: spinalcordtoolbox/sct_testing_data (MIT).
The weights that ship were trained before there was such a configuration: with the same network,
patches and steps, but other augmentation and no validation.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from wsiseg.geometry import Box
from wsiseg.scans import segment_scan
from wsiseg.source import open_volume
from wsiseg.train.train import train

SCANS = {
    "t2": ("t2/t2.nii.gz", "t2/t2_seg-manual.nii.gz", "train"),
    "t2 with a lesion": ("t2/t2_fake_lesion.nii.gz", "t2/t2_fake_lesion_sc_seg.nii.gz", "train"),
    "t1, held out": ("t1/t1w.nii.gz", "t1/t1w_seg-manual.nii.gz", "test"),
}


def write_dataset(data: Path, work: Path) -> Path:
    """Write `dataset.toml` beside a copy of the configuration, which is returned."""
    rows = [
        f"[[scans]]\nscan = {json.dumps(str(data / scan))}\n"
        f"labels = {json.dumps(str(data / labels))}\nsplit = {json.dumps(split)}\n"
        for scan, labels, split in SCANS.values()
    ]
    (work / "dataset.toml").write_text(
        'classes = ["background", "Spinal cord"]\n' + "".join(rows), encoding="utf-8"
    )
    config = Path(__file__).with_name("config.toml")
    return Path(shutil.copy(config, work))


def dice(scan: Path, labels: Path, package: Path) -> float:
    """Return the overlap of what a model finds with the labels."""
    with open_volume(labels) as volume:
        truth = volume.read(Box.of_shape(volume.shape))[..., 0] > 0
    found = segment_scan(scan, package).labels == 1
    return float(2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth)))


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    config = write_dataset(args.data.resolve(), args.work)
    package = train(config, args.work / "models").package
    for name, (scan, labels, _) in SCANS.items():
        print(f"Dice of {name}: {dice(args.data / scan, args.data / labels, package):.3f}")


if __name__ == "__main__":
    main()
