"""Checkpoints of torch, read as data: tensors, numbers, text and containers, nothing else.

`torch.load(weights_only=True)` runs no code; it refuses what is not on its list of harmless names.
Training scripts also store NumPy arrays and numbers (losses, say), which are added to that list.
"""

import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from wsiseg.errors import WeightsError, WsisegWarning
from wsiseg.model.child import make_in_child

__all__ = ["read_checkpoint", "state_bytes", "state_of", "unpickle_job"]

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Where NumPy 1 and 2 keep the functions that make arrays of bytes."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of names in networks that were trained on several GPUs, or compiled."""

STATES = ("network_weights", "state_dict", "model_state_dict", "model", "weights", "net")
"""Where scripts keep the weights of a network beside other things."""


def read_checkpoint(path: Path, *, trust: bool = False) -> Any:  # noqa: ANN401 - whatever is stored
    """Return what a file of `torch.save` holds, without running anything that it names.

    Parameters
    ----------
    path
        A checkpoint (`.pth`, `.pt`).
    trust
        Where there is more in it than data: unpickle it, once and in a process of its own, and
        keep tensors, numbers, text and containers.

    Raises
    ------
    WeightsError
        If it cannot be read, is damaged, or holds more than data and is not trusted.
    """
    script = _is_script(path)
    if script and not trust:
        raise WeightsError(
            f"{path}: is TorchScript, which is code and is refused; if you trust where it comes "
            "from, add it with --trust"
        )
    try:
        if script:
            return _trusted(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old protocols of pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        if not trust:
            raise WeightsError(
                f"{path}: holds {_named(path)}, which can be code and is refused: needed tensors, "
                "numbers and text; if you trust where it comes from, add it with --trust"
            ) from error
        return _trusted(path)
    except WeightsError:
        raise
    except Exception as error:  # the unpickler raises whatever a damaged file leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: no checkpoint that torch can read: {reason}; fetch it again"
        ) from error


def state_of(content: object, *, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a network by name: the content itself, or where scripts put them.

    Raises
    ------
    WeightsError
        If there are none, or something else is among them.
    """
    if isinstance(content, Mapping):
        for key in STATES:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{name}: no weights found; needed a dict of tensors by name")
    for key, value in content.items():
        if not isinstance(value, torch.Tensor) or not isinstance(key, str):
            raise WeightsError(
                f"{name}: {key!r} is {type(value).__name__}, no tensor: needed a dict of tensors, "
                f"or one of {', '.join(STATES)} with such"
            )
    state = dict(content)
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def state_bytes(state: Mapping[str, torch.Tensor]) -> bytes:
    """Return tensors as a safetensors file whose bytes depend on nothing but them."""
    tensors = {name: state[name].detach().contiguous().clone() for name in sorted(state)}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def unpickle_job(request: dict[str, Any]) -> bytes:
    """Unpickle a file that is trusted; return what of it is data, as a checkpoint."""
    path = Path(request["path"])
    if _is_script(path):
        content = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    else:
        content = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    file = io.BytesIO()
    torch.save(_data(content), file)
    return file.getvalue()


def _is_script(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _trusted(path: Path) -> Any:  # noqa: ANN401
    """Return what of a file is data, from a process that unpickled it or ran its TorchScript."""
    warnings.warn(
        f"{path}: is unpickled once, which runs what it names; only data is kept",
        WsisegWarning,
        stacklevel=4,
    )
    content = make_in_child("unpickle", {"path": str(path.resolve())}, what=f"{path}: unpickling")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _data(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): _data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_data(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(type(value))
    return value


def _harmless() -> list[Any]:
    """Return what NumPy's arrays and numbers are made of."""
    from numpy._core import multiarray

    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"]
    made = [
        (function, f"{module}.{name}")
        for module in _NUMPY
        for name, function in (
            ("_reconstruct", multiarray._reconstruct),
            ("scalar", multiarray.scalar),
        )
    ]
    return [np.ndarray, np.dtype, OrderedDict, *kinds, *made]


def _named(path: Path) -> str:
    """Return which names that are not data a checkpoint has."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, RuntimeError, pickle.UnpicklingError, OSError):
        names = []
    return ", ".join(sorted(names)[:5]) or "a pickle of another kind"
