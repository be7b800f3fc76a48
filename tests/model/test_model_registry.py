import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import Classifier, content, noise

from wsiseg.errors import ModelCardError, ModelError, WeightsError, WsisegWarning
from wsiseg.model import add_model, check_model, describe, find_model, list_models, load_model
from wsiseg.model import registry as registry_module
from wsiseg.model.cache import user_models

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "BUNDLED", tmp_path / "bundled")


def test_an_added_package_is_found_by_name(package: Path) -> None:
    folder = add_model(package)
    assert folder == user_models() / "tiny"
    assert find_model("tiny") == folder
    assert load_model("tiny").digest == load_model(package).digest
    (entry,) = list_models()
    assert (entry.name, entry.version, entry.classes) == ("tiny", "1.0", ("background", "Tumor"))
    assert json.loads(json.dumps(entry.to_dict()))["origin"] == "user"


def test_licence_and_readme_travel_along_and_nothing_else(package: Path) -> None:
    (package / "README.md").write_text("my own words")
    (package / "LICENSE.txt").write_text("mine")
    (package / "setup.py").write_text("raise SystemExit")
    folder = add_model(package)
    assert (folder / "README.md").read_text() == "my own words"
    assert (folder / "LICENSE.txt").is_file()
    assert not (folder / "setup.py").exists()


def test_a_model_can_be_renamed(package: Path) -> None:
    add_model(package, name="other")
    assert load_model("other").card.name == "other"


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".hidden", "/etc"])
def test_names_that_leave_the_folder_are_refused(package: Path, name: str) -> None:
    with pytest.raises(ModelCardError, match="name"):
        add_model(package, name=name)
    assert not user_models().exists()


def test_names_are_not_taken_twice(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(package)
    with pytest.raises(ModelError, match="is there already"):
        add_model(package)
    add_model(package, overwrite=True)
    monkeypatch.setattr("wsiseg.model.add.BUNDLED", package.parent)
    with pytest.raises(ModelError, match="bundled"):
        add_model(package, overwrite=True)


def test_a_broken_package_is_not_added(package: Path) -> None:
    (package / "refine.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="not those of the card"):
        add_model(package)
    assert list_models() == ()


def test_unknown_names_bring_close_ones(package: Path) -> None:
    with pytest.raises(ModelError, match=r"'tiny' is unknown: known: none"):
        find_model("tiny")
    add_model(package)
    with pytest.raises(ModelError, match=r"did you mean tiny\? known: tiny"):
        find_model("tinny")


def test_folders_are_models_too(package: Path, tmp_path: Path) -> None:
    assert find_model(package) == package
    assert find_model(str(package)) == package
    assert find_model(package / "model.json") == package
    with pytest.raises(ModelError, match=r"needed a model\.json in it"):
        find_model(tmp_path)
    with pytest.raises(ModelError, match="models/tiny: no such folder"):
        find_model("models/tiny")


def test_a_name_is_no_folder_and_that_is_said(
    package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_model(package, name=package.name)
    monkeypatch.chdir(package.parent)
    assert find_model(package.name) == user_models() / package.name
    assert find_model(f"./{package.name}").resolve() == package.resolve()
    (message,) = caplog.messages
    assert message.endswith(
        f"the added model of that name; for the folder here say ./{package.name}"
    )


def test_a_name_cannot_climb(package: Path) -> None:
    add_model(package)
    with pytest.raises(ModelError, match="no model package"):
        find_model("..")


def test_a_broken_card_is_listed_with_its_problem(package: Path) -> None:
    folder = add_model(package)
    (folder / "model.json").write_text("{}")
    (entry,) = list_models()
    assert entry.version == "?"
    assert "schema_version" in entry.problem


def test_a_description_names_what_matters(package: Path) -> None:
    text = describe(package)
    for part in ("background, Tumor", "1 x 1 µm/px", "6 x 4 px", "Apache-2.0", str(package)):
        assert part in text


def test_a_check_reports_figures(package: Path) -> None:
    report = check_model(package, backend="torch")
    assert [stage.stage for stage in report.stages] == ["patches", "refine"]
    assert all(stage.error <= stage.allowed == 1e-4 for stage in report.stages)
    assert "torch on cpu" in str(report)


WSINFER: dict[str, Any] = {
    "spec_version": "1.0",
    "architecture": "resnet34",
    "num_classes": 2,
    "class_names": ["other", "tumor"],
    "patch_size_pixels": 8,
    "spacing_um_px": 0.25,
    "transform": [
        {"name": "Resize", "arguments": {"size": 4}},
        {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": [0.1, 0.5, 0.9], "std": [0.5, 1.0, 2.0]}},
    ],
}


def wsinfer(folder: Path, classes: int = 2, **changes: Any) -> Path:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(WSINFER | changes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, the zoo's files are not
        traced = torch.jit.trace(Classifier(3, classes).eval(), torch.zeros(1, 3, 4, 4))
        torch.jit.save(traced, folder / "torchscript_model.pt")
    return folder


def test_a_zoo_model_becomes_a_package(tmp_path: Path) -> None:
    source = wsinfer(tmp_path / "lymph")
    with pytest.raises(WeightsError, match="--trust"):
        add_model(source)
    with pytest.warns(WsisegWarning, match="TorchScript runs once"):
        folder = add_model(source, trust=True)
    assert not list(folder.glob("*.pt"))
    model = load_model("lymph")
    spec = model.card.stages[0].inputs[0]
    assert (spec.patch, spec.spacing_um) == ((4, 4), (0.5, 0.5))
    pixels = noise(3, 4, 4, 3)
    torch.manual_seed(0)
    head = Classifier(3, 2).head
    ready = ((pixels / 255.0 - [0.1, 0.5, 0.9]) / [0.5, 1.0, 2.0]).mean((1, 2))
    wanted = ready @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(model.predictors[0](pixels), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["Grade3", "Grade4+5", "Benign"], ["Benign", "Grade3", "Grade4+5"]),
        (["Tumor", "not tumor", "Other"], ["not tumor", "Tumor", "Other"]),
        (["Lepidic", "Nodule", "Solid"], ["background", "Lepidic", "Nodule", "Solid"]),
    ],
)
def test_every_class_of_a_zoo_model_but_background_is_found(
    tmp_path: Path, names: list[str], wanted: list[str]
) -> None:
    source = wsinfer(tmp_path / "zoo", 3, class_names=names, num_classes=3)
    with pytest.warns(WsisegWarning, match="TorchScript runs once"):
        model = load_model(add_model(source, trust=True))
    assert [known.name for known in model.card.classes] == wanted
    pixels = noise(3, 4, 4, 3)
    torch.manual_seed(0)
    head = Classifier(3, 3).head
    ready = ((pixels / 255.0 - [0.1, 0.5, 0.9]) / [0.5, 1.0, 2.0]).mean((1, 2))
    logits = ready @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    found = model.predictors[0](pixels)
    for i, name in enumerate(wanted):
        own = logits[:, names.index(name)] if name in names else logits.min(axis=1) - 30
        np.testing.assert_allclose(found[:, i], own, atol=1e-5)


class Corner(torch.nn.Module):
    """Logits are single pixels of an image of 10 x 10."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.stack([patches[:, 0, 9, 3], patches[:, 1, 2, 7]], 1)


def test_a_zoo_model_that_enlarges_its_patches_does_so(tmp_path: Path) -> None:
    resize = {"name": "Resize", "arguments": {"size": 10}}
    changes = {"patch_size_pixels": 4, "transform": [resize, {"name": "ToTensor"}]}
    source = wsinfer(tmp_path / "zoo", **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Corner(), torch.zeros(1, 3, 10, 10)).save(source / "torchscript_model.pt")
    with pytest.warns(WsisegWarning, match="TorchScript runs once"):
        model = load_model(add_model(source, trust=True))
    spec = model.card.stages[0].inputs[0]
    assert (spec.patch, spec.spacing_um) == ((4, 4), (0.25, 0.25))
    pixels = noise(5, 4, 4, 3)
    large = np.stack([np.asarray(Image.fromarray(p).resize((10, 10), 2)) for p in pixels]) / 255
    wanted = np.stack([large[:, 9, 3, 0], large[:, 2, 7, 1]], 1)
    np.testing.assert_allclose(model.predictors[0](pixels), wanted, atol=1 / 255)


def test_a_checkpoint_is_no_torchscript(tmp_path: Path) -> None:
    source = wsinfer(tmp_path / "zoo")
    torch.save({"weight": torch.zeros(2)}, source / "torchscript_model.pt")
    with (
        pytest.warns(WsisegWarning),
        pytest.raises(WeightsError, match="not a checkpoint"),
    ):
        add_model(source, trust=True)
    assert list_models() == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": [{"name": "Crop"}]}, "'Crop' is unknown"),
        ({"transform": [{"name": "Resize", "arguments": {"size": [4, 5]}}]}, "one size"),
        ({"num_classes": 3}, "num_classes 3 but 2"),
        ({"spacing_um_px": 0}, "spacing_um_px"),
        ({"transform": [{"name": "Normalize", "arguments": {"mean": [0.0]}}]}, "steps"),
    ],
)
def test_a_zoo_model_that_no_card_can_say(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelCardError, match=message):
        add_model(wsinfer(tmp_path / "zoo", **changes), trust=True)


def test_weights_need_a_card(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ModelError, match="no model"):
        add_model(path)
    path.write_bytes(b"")
    with pytest.raises(ModelCardError, match="weights need a card"):
        add_model(path)
    for text, message in (("[]", "JSON object"), ("{", "no JSON"), ("{}", "one stage")):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(ModelCardError, match=message):
            add_model(path)
    card = content()
    card["stages"] = card["stages"][:1]
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelCardError, match="needed 'onnx'"):
        add_model(path)


def test_a_missing_zoo_file_is_named(tmp_path: Path) -> None:
    source = wsinfer(tmp_path / "zoo")
    (source / "torchscript_model.pt").unlink()
    with pytest.raises(WeightsError, match=r"torchscript_model\.pt: is missing"):
        add_model(source, trust=True)


def test_where_models_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WSISEG_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert user_models() == tmp_path / "wsiseg" / "models"
    monkeypatch.setattr("sys.platform", "darwin")
    assert user_models().parts[-4:] == ("Library", "Application Support", "wsiseg", "models")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert user_models() == tmp_path / "wsiseg" / "models"
