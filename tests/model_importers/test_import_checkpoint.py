"""Checkpoints of torch as data: what is taken, what is refused, what trust allows."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from wsiseg.errors import WeightsError, WsisegWarning
from wsiseg.model.importers.checkpoint import read_checkpoint, state_bytes, state_of


@pytest.mark.parametrize(
    "name", ["torchio_patches_epoch_5.pth", "torchio_whole_images_epoch_5.pth"]
)
def test_real_foreign_weights_are_read_without_running_code(data_dir: Path, name: str) -> None:
    content = read_checkpoint(data_dir / "weights" / name)
    assert isinstance(content["train_losses"], np.ndarray)
    state = state_of(content, name=name)
    assert state["encoder.encoding_blocks.0.conv1.conv_layer.weight"].shape == (8, 1, 3, 3, 3)
    import safetensors.torch

    again = safetensors.torch.load(state_bytes(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.place,)

    def __init__(self, place: str) -> None:
        self.place = place


def bomb(tmp_path: Path) -> Path:
    path = tmp_path / "bomb.pth"
    torch.save({"network_weights": {}, "extra": Bomb(str(tmp_path / "ran"))}, path)
    return path


def test_a_pickle_that_runs_something_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = bomb(tmp_path)
    with pytest.raises(WeightsError, match=r"holds posix\.mkdir, which can be code.*--trust"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_trust_unpickles_apart_and_keeps_data_alone(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 3), path)
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)
    with pytest.warns(WsisegWarning, match="is unpickled once"):
        content = read_checkpoint(path, trust=True)
    assert {key: tuple(value.shape) for key, value in content.items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint"),
        (b"PK\x03\x04 nothing", "no checkpoint"),
        (b"text", "refused|no check"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "none.pth")


def test_plain_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(WeightsError, match="refused"):
        read_checkpoint(path)


def test_prefixes_of_training_go_where_all_names_have_them() -> None:
    value = torch.zeros(1)
    wrapped = {"state_dict": {"module.a": value, "module.b": value}, "epoch": 3}
    assert set(state_of(wrapped, name="x")) == {"a", "b"}
    assert set(state_of({"module.a": value, "b": value}, name="x")) == {"module.a", "b"}


@pytest.mark.parametrize("content", [[], {}, {"epoch": 3}, {"a": {"b": torch.zeros(1)}}, 3])
def test_no_weights_are_said(content: object) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth: .*(no weights|no tensor)"):
        state_of(content, name="w.pth")
