import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from tiny_model import PATCH, Classifier, Segmenter, check_inputs, content, networks, noise

from wsiseg.errors import ModelCardError, ModelError, OutputShapeError, WeightsError
from wsiseg.model import Package, check_model, load_model
from wsiseg.model import package as package_module
from wsiseg.model.package import write_package

Write = Callable[..., Path]


def edit_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def bless(folder: Path, path: Path) -> None:
    """Make the card say that the weights are right as they are."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_card(folder, lambda card: card["stages"][0]["weights"].update(sha256=sha256))


def test_a_package_holds_what_the_card_names(package: Path) -> None:
    names = {"model.json", "README.md", "check.npz", "patches.safetensors", "refine.safetensors"}
    assert {path.name for path in package.iterdir()} == names
    assert "Apache-2.0" in (package / "README.md").read_text(encoding="utf-8")
    weights = safetensors.numpy.load_file(package / "patches.safetensors")
    assert set(weights) == {"head.weight", "head.bias"}


def test_writing_twice_gives_the_same_digest(write: Write) -> None:
    digest = Package.open(write()).digest
    assert Package.open(write(overwrite=True)).digest == digest


def test_the_digest_follows_card_and_weights(write: Write) -> None:
    digest = Package.open(write()).digest
    other = networks()
    torch.nn.init.ones_(other["patches"].head.weight)
    assert Package.open(write(networks=other, overwrite=True)).digest != digest
    card = content() | {"version": "1.1"}
    assert Package.open(write(card, overwrite=True)).digest != digest


def test_networks_are_left_as_they_were_found(write: Write) -> None:
    given = networks()
    given["patches"].train()
    write(networks=given)
    assert given["patches"].training
    assert all(p.requires_grad for p in given["patches"].parameters())


def test_a_folder_is_not_replaced_unasked(write: Write) -> None:
    folder = write()
    with pytest.raises(ModelError, match="is there already"):
        write()
    assert check_model(folder).model == "tiny 1.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": {}}, "networks: needed one for each stage"),
        ({"check_inputs": {}}, "check_inputs: needed one for each stage"),
        ({"networks": networks() | {"refine": Segmenter(4, 2, add=1.0)}}, "differs from the rec"),
        ({"networks": networks() | {"patches": Classifier(3, 3)}}, "do not fit"),
    ],
)
def test_a_package_that_contradicts_its_card_is_not_written(
    write: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        write(**changes)
    assert not list(tmp_path.rglob("model.json"))
    assert not list(tmp_path.rglob(".tiny*"))


def test_stages_of_one_file_share_it(tmp_path: Path) -> None:
    card = content()
    card["stages"].append(json.loads(json.dumps(card["stages"][0])))
    card["stages"][0]["weights"]["file"] = "shared.safetensors"
    card["stages"][2]["weights"]["file"] = "shared.safetensors"
    card["stages"][2] |= {"name": "again", "output": {"name": "again"}}
    given, inputs = networks(), check_inputs()
    given["again"], inputs["again"] = given["patches"], inputs["patches"]
    write_package(tmp_path / "p", card=card, networks=given, check_inputs=inputs)
    assert len(list((tmp_path / "p").glob("*.safetensors"))) == 2
    given["again"] = Classifier(3, 2)
    with pytest.raises(WeightsError, match="holds other weights already"):
        write_package(tmp_path / "q", card=card, networks=given, check_inputs=inputs)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".bin"])
def test_pickles_are_refused_by_name(package: Path, suffix: str) -> None:
    (package / "patches.safetensors").rename(package / f"patches{suffix}")
    edit_card(package, lambda card: card["stages"][0]["weights"].update(file=f"patches{suffix}"))
    with pytest.raises(WeightsError, match=r"pickle can run any program.*wsiseg models add"):
        load_model(package)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_pickles_under_a_safe_name_are_refused(package: Path, kind: str) -> None:
    path = package / "patches.safetensors"
    if kind == "torch":
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}))
    bless(package, path)
    with pytest.raises(WeightsError, match="can run any program"):
        load_model(package)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_damaged_safetensors_are_an_error(package: Path, backend: Any) -> None:
    path = package / "patches.safetensors"
    path.write_bytes(b"\x10" + bytes(7) + b"not json at all!")
    bless(package, path)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_model(package, backend=backend)


def test_unknown_kinds_of_weights_are_refused(package: Path) -> None:
    edit_card(package, lambda card: card["stages"][0]["weights"].update(file="patches.h5"))
    with pytest.raises(WeightsError, match="unknown kind"):
        load_model(package)


def test_changed_weights_are_refused_although_they_were_loaded_before(package: Path) -> None:
    load_model(package)
    path = package / "patches.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(WeightsError, match=r"not those of the card: needed sha256 [0-9a-f]{12}"):
        load_model(package)


def test_missing_weights_are_named(package: Path) -> None:
    (package / "refine.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"refine\.safetensors: cannot be read"):
        load_model(package)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without an end")
@pytest.mark.parametrize("name", ["patches.safetensors", "check.npz"])
def test_a_link_to_what_never_ends_is_refused(package: Path, name: str) -> None:
    (package / name).unlink()
    (package / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=rf"{name}: cannot be read: needed a file, found"):
        check_model(package)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_changed_step_fails_the_check(package: Path, backend: Any) -> None:
    load_model(package, backend=backend)
    edit_card(
        package,
        lambda card: card["stages"][0]["inputs"][0]["steps"][0].update(divide_by=1),
    )
    with pytest.raises(ModelError, match=r"differs from the recorded one by .* needed at most"):
        load_model(package, backend=backend)


def test_an_unknown_key_is_refused(package: Path) -> None:
    edit_card(package, lambda card: card.update(preprocessing="0..1"))
    with pytest.raises(ModelCardError, match="preprocessing"):
        load_model(package)


def test_an_unknown_architecture_is_refused(package: Path) -> None:
    edit_card(
        package, lambda card: card["stages"][0]["weights"].update(architecture="wsiseg.nothing")
    )
    with pytest.raises(ModelError, match=r"wsiseg\.nothing.*unknown"):
        load_model(package)


def test_arguments_that_do_not_fit_are_refused(package: Path) -> None:
    weights = {"architecture": "wsiseg.mobilenet_v2", "arguments": {"depth": 3}}
    edit_card(package, lambda card: card["stages"][0]["weights"].update(weights))
    with pytest.raises(ModelError, match="depth"):
        load_model(package)


def rewrite_check(folder: Path, **changes: np.ndarray) -> None:
    with np.load(folder / "check.npz") as arrays:
        content = dict(arrays)
    np.savez(
        folder / "check.npz", **(content | {k.replace("__", "."): v for k, v in changes.items()})
    )


def test_a_failing_check_gives_numbers_and_a_remedy(package: Path) -> None:
    load_model(package)  # a changed check is run again, although this one passed
    rewrite_check(package, patches__output=np.full((2, 2), 0.75, np.float32))
    with pytest.raises(ModelError, match=r"'patches'.* by 0?\.?\d.*needed at most 0\.0001"):
        load_model(package)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches__output": np.zeros((3, 2), np.float32)}, "expects"),
        ({"patches__output": np.zeros((2, 2))}, "float32 output"),
        ({"patches__input0": noise(2, 3, 3, 3)}, "needs inputs"),
        ({"patches__input0": noise(0, *PATCH, 3)}, "needs inputs"),
        ({"patches__output": np.full((2, 2), np.nan, np.float32)}, "differs"),
    ],
)
def test_a_check_that_cannot_be_used_is_an_error(
    package: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    rewrite_check(package, **changes)
    with pytest.raises(ModelError, match=message):
        check_model(package, backend="torch")


def test_a_check_without_a_stage_or_with_a_pickle_is_refused(package: Path) -> None:
    np.savez(package / "check.npz", a=np.zeros(1))
    with pytest.raises(ModelError, match=r"patches\.input0"):
        load_model(package)
    np.savez(package / "check.npz", **{"patches.input0": np.array([{}], dtype=object)})
    with pytest.raises(ModelError, match="allow_pickle"):
        load_model(package)
    (package / "check.npz").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="no usable check"):
        load_model(package)


def test_a_check_that_unpacks_to_too_much_is_not_unpacked(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write()
    with zipfile.ZipFile(folder / "check.npz") as archive:
        largest = max(entry.file_size for entry in archive.infolist())
    monkeypatch.setattr(package_module, "MAX_CHECK_BYTES", largest - 1)
    with pytest.raises(ModelError, match=f"an array of {largest} bytes"):
        check_model(folder, backend="torch")


def test_a_network_without_finite_values_is_not_written(write: Write) -> None:
    card = content()
    card["stages"][1]["weights"]["arguments"] = {"add": 1e39}
    with pytest.raises(OutputShapeError, match="finite"):
        write(card, networks=networks() | {"refine": Segmenter(4, 2, add=1e39)})
