"""WSInfer's `run` on one slide: `run_wsinfer.py SLIDE MODEL OUT`, then a JSON line.

The command with its defaults (its own tissue mask, batch 32, a worker per core). Only the list of
zoo models, which it downloads before anything else, is left empty: the model is a local one.
"""

import csv
import json
import sys
from pathlib import Path

import wsinfer_zoo.client

wsinfer_zoo.client.load_registry = lambda: wsinfer_zoo.client.ModelRegistry({})

from wsinfer.cli.cli import cli  # noqa: E402 - it reads the list when imported


def main() -> None:
    slide, model, out = map(Path, sys.argv[1:])
    folder = out / "slides"
    folder.mkdir(parents=True)
    (folder / slide.name).symlink_to(slide.resolve())
    arguments = [
        *("--wsi-dir", folder),
        *("--results-dir", out / "results"),
        *("--model-path", model / "torchscript_model.pt"),
        *("--config", model / "config.json"),
    ]
    cli(["run", *map(str, arguments)], standalone_mode=False)
    with (out / "results" / "model-outputs-csv" / f"{slide.stem}.csv").open() as stream:
        print(json.dumps({"tiles": sum(1 for _ in csv.DictReader(stream))}))


if __name__ == "__main__":
    main()
