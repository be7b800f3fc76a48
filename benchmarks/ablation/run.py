"""H2G-Net's ablation, designs I to IX, on two regions: each learns one and is tested on the other.

    python benchmarks/demo_model/prepare.py DATA WORK
    python benchmarks/ablation/run.py WORK [--designs i,iv,vi] [--seeds 1,2,3] [--rounds 4]

Design I is Otsu's threshold on the saturation; the others are the configurations beside this file,
trained with `wsiseg train` and judged with `wsiseg segment` and `wsiseg evaluate`. Designs that
share a first stage learn it once. Two regions of two patients: the table says which designs run and
what they gave here; it is no ranking.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from wsiseg_cli.main import app

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import measure  # noqa: E402

DESIGNS = ("i-otsu", *(path.stem for path in sorted(HERE.glob("*.toml"))))
FIRST = "iv-mob-pw"
"""Whose first stage the refined designs share, and whose features group the patches of V."""

REFINED = "vi-mob-pw-unet"
"""Whose heatmaps out of fold the other refined designs learn from, too."""

REGIONS = ("1008", "1015")
BCSS_ONLY = 'source = "bcss"'


def wsiseg(*arguments: object) -> None:
    """Run a command in this process: importing everything 50 times takes minutes."""
    with contextlib.redirect_stdout(io.StringIO()):
        app([*map(str, arguments)], standalone_mode=False)


def bcss_only(dataset: str) -> str:
    """Return the data set without the weakly labelled images."""
    head, *slides = dataset.split("\n[[slides]]\n")
    return "\n[[slides]]\n".join([head, *(one for one in slides if BCSS_ONLY in one)])


def prepare(work: Path, region: str, design: str, seed: int, rounds: int | None) -> Path:
    """Return the folder of one training, with its configuration."""
    folder = work / "ablation" / region / f"seed-{seed}" / design
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(bcss_only((work / region / "dataset.toml").read_text()))
    if design == "i-otsu":
        return folder
    config = (HERE / f"{design}.toml").read_text().replace("\nseed = 0\n", f"\nseed = {seed}\n")
    if rounds is not None:
        lines = (f"rounds = {rounds}" if x.startswith("rounds") else x for x in config.splitlines())
        config = "\n".join(lines) + "\n"
    (folder / "config.toml").write_text(config)
    first = folder.parent / FIRST
    if design.startswith("v-"):
        link(first / FIRST, folder / "features")
    elif 'name = "refine"' in config and 'name = "patches"' in config:
        for earlier in (FIRST, REFINED):
            share(folder.parent / earlier / f"{earlier}.training", folder / f"{design}.training")
    return folder


def share(earlier: Path, training: Path) -> None:
    """Copy first stages and their heatmaps from a training to one that would make the same."""
    for part in (*earlier.glob("patches*"), *earlier.glob("heatmaps")):
        if not (training / part.name).exists():
            shutil.copytree(part, training / part.name)


def link(target: Path, name: Path) -> None:
    if not name.exists():
        name.symlink_to(target, target_is_directory=True)


def score(folder: Path, design: str) -> dict[str, float]:
    """Train, segment and evaluate; return the scores of the tumour on the other region."""
    out = folder / "out"
    slide = next(
        line.split('"')[1]
        for part in (folder / "dataset.toml").read_text().split("[[slides]]")
        if 'split = "test"' in part
        for line in part.splitlines()
        if line.startswith("slide")
    )
    common = [slide, "--out", out, "--mpp", "0.25", "--quiet"]
    if design == "i-otsu":
        wsiseg("tissue", *common, "--tissue", "saturation")
        found = next(out.rglob("tissue.geojson"))
        text = found.read_text().replace('"Tissue"', '"Tumor"').replace('"Region*"', '"Tumor"')
        predictions = folder / "predictions"
        predictions.mkdir(exist_ok=True)
        (predictions / f"{Path(slide).stem}.geojson").write_text(text)
    else:
        if not (folder / design).exists():
            wsiseg("train", folder / "config.toml", "--out", folder, "--quiet")
        wsiseg("segment", *common, "--model", folder / design, "--tissue", "none")
        predictions = out
    report = folder / "evaluation"
    wsiseg("evaluate", folder / "dataset.toml", predictions, "--split", "test", "--out", report)
    rows = json.loads((report / "evaluation.json").read_text())["summary"]
    return {
        # Precision where nothing was found, say, is undefined: it counts as 0.
        row["figure"]: round(row["pooled"] or 0.0, 4)
        for row in rows
        if row["class"] == "Tumor"
        and not row["column"]
        and row["figure"] in ("recall", "precision", "dice")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="what demo_model/prepare.py made")
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rounds", type=int, help="instead of those of the configurations")
    args = parser.parse_args()
    wanted = args.designs.split(",")
    chosen = [d for d in DESIGNS if d in wanted or d.split("-")[0] in wanted]
    rows: list[dict[str, Any]] = []
    for seed in map(int, args.seeds.split(",")):
        for region in REGIONS:
            for design in sorted(chosen, key=lambda d: (d != FIRST, d != REFINED, d)):
                started = time.perf_counter()
                folder = prepare(args.work.resolve(), region, design, seed, args.rounds)
                row = {"design": design, "trained_on": region, "seed": seed}
                row |= score(folder, design)
                row["seconds"] = round(time.perf_counter() - started)
                rows.append(row)
                print(json.dumps(row), flush=True)
    print(measure.save("ablation", {"rows": rows, "means": means(rows)}))


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return per design the mean over seeds and regions, and the deviation between seeds."""
    found = []
    for design in DESIGNS:
        own = [row for row in rows if row["design"] == design]
        if not own:
            continue
        seeds = sorted({row["seed"] for row in own})
        by_seed = [
            statistics.mean(row["dice"] for row in own if row["seed"] == seed) for seed in seeds
        ]
        found.append(
            {
                "design": design,
                **{
                    key: round(statistics.mean(row[key] for row in own), 4)
                    for key in ("recall", "precision", "dice")
                },
                "seeds": len(seeds),
                "dice_sd": round(statistics.stdev(by_seed), 4) if len(seeds) > 1 else None,
            }
        )
    return found


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    main()
