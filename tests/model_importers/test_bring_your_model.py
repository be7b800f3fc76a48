"""The commands of docs/bring-your-model.md, run as they stand with small real networks."""

import hashlib
import json
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from made_models import export, make_bundle, make_nnunet, make_raidionics, network
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.geometry import Affine
from wsiseg.model.card import StageSpec
from wsiseg.model.networks import build
from wsiseg.model.scan_card import WithinSpec
from wsiseg.volume.nifti import write_nifti

PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-model.md").read_text(encoding="utf-8")


def commands(*words: str) -> list[list[str]]:
    """Return the commands of the page that have one of these words, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if any(word in line for word in words)]


def run(arguments: list[str]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript that is trusted
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{arguments}: {result.output} {result.exception}"
    return result.output


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_scan(path: Path) -> np.ndarray:
    random = np.random.default_rng(0)
    values = (random.standard_normal((10, 20, 18)) * 100 + 40).astype(np.int16)
    write_nifti(path, values, Affine.from_spacing((2.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    return values


def test_nnunet_from_folder_to_labels(tmp_path: Path) -> None:
    import nibabel

    networks = {str(i): network(seed=i) for i in range(2)}
    make_nnunet(tmp_path / "Dataset123_Made", networks=networks, mirror=(0,))
    values = make_scan(tmp_path / "scan.nii.gz")
    for command in commands(" liver", "two-folds"):
        run(command)
    labels = nibabel.load(tmp_path / "out" / "scan" / "labels.nii.gz")
    assert labels.shape == values.shape[::-1]
    assert set(np.unique(labels.get_fdata())) <= {0, 1, 2}
    assert "averaged" in PAGE


def test_bundles_and_raidionics(tmp_path: Path) -> None:
    make_bundle(tmp_path / "spleen_bundle")
    make_raidionics(tmp_path / "MRI_Tumor")
    make_scan(tmp_path / "scan.nii.gz")
    for command in commands("spleen_bundle", "MRI_Tumor"):
        run(command)
    for name in ("spleen", "tumour"):
        run(["segment", "scan.nii.gz", "--model", name, "--out", f"out-{name}"])
        assert (tmp_path / f"out-{name}" / "scan" / "labels.nii.gz").is_file()


def test_onnx_and_torchscript_with_the_card_of_the_page(tmp_path: Path) -> None:
    card, *_ = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "card.json").write_text(card)
    export(network(), torch.zeros(1, 1, 8, 16, 16), tmp_path / "net.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network(), torch.zeros(1, 1, 8, 16, 16))
        torch.jit.save(traced, tmp_path / "net.ts")
    make_scan(tmp_path / "scan.nii.gz")
    for command in commands("--card"):
        run(command)
    found = []
    for name in ("from-onnx", "from-torchscript"):
        run(["segment", "scan.nii.gz", "--model", name, "--out", f"out-{name}"])
        found.append((tmp_path / f"out-{name}" / "scan" / "labels.nii.gz").read_bytes())
    assert found[0] == found[1]


def test_parts_of_cards_on_the_page_are_understood() -> None:
    _, within, fused = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    found = WithinSpec.model_validate_json(json.dumps(json.loads(within)["within"]), strict=True)
    assert found.classes == ("liver",)
    stage = StageSpec.model_validate_json(fused, strict=True)
    assert stage.weights.sha256 == hashlib.sha256(safetensors.torch.save({})).hexdigest()
    network = build(
        stage.weights.architecture,
        channels=[len(item.channels) for item in stage.inputs],
        classes=2,
        arguments=stage.weights.arguments,
    )
    one, other = torch.rand(2, 1, 2, 4, 4, 4)
    assert torch.equal(network(one, other), torch.stack([one, other]).mean(0))
