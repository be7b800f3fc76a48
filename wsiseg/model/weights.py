"""Weights files: which kinds are safe to load, and whether they are the ones the card means."""

import hashlib
from pathlib import Path

from wsiseg.errors import WeightsError
from wsiseg.files import require_file

__all__ = ["PICKLES", "hash_file", "read_file", "refuse_unsafe", "verify"]

PICKLES = {".pt", ".pth", ".ts", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy"}
WEIGHTS = {".safetensors", ".onnx"}

PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""A pickle of protocol 2 to 5, and the zip archive torch.save puts one into."""


def refuse_unsafe(path: Path) -> None:
    """Raise `WeightsError` unless the file is safetensors or ONNX by name, and no pickle inside."""
    suffix = path.suffix.lower()
    if suffix in PICKLES or (suffix in WEIGHTS and _start(path).startswith(PICKLE_STARTS)):
        raise WeightsError(
            f"{path}: a pickle can run any program and is refused: needed safetensors or ONNX; "
            "convert it with `wsiseg models add` or safetensors.torch.save_file"
        )
    if suffix not in WEIGHTS:
        raise WeightsError(
            f"{path}: unknown kind of weights: needed {sorted(WEIGHTS)}, found {suffix!r}; "
            "convert the weights"
        )


def verify(path: Path, *, wanted: str, found: str) -> None:
    """Raise `WeightsError` unless the two SHA-256 are the same."""
    if wanted != found:
        raise WeightsError(
            f"{path}: the weights are not those of the card: needed sha256 {wanted[:12]}..., "
            f"found {found[:12]}...; fetch the package again"
        )


def read_file(path: Path) -> bytes:
    """Return a file of the package; raise `WeightsError` if that fails."""
    try:
        require_file(path)
        return path.read_bytes()
    except OSError as error:
        raise _incomplete(path, error) from error


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file of the package; raise `WeightsError` if that fails."""
    try:
        require_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _incomplete(path, error) from error


def _start(path: Path) -> bytes:
    try:
        require_file(path)
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise _incomplete(path, error) from error


def _incomplete(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{path}: cannot be read: {error.strerror}; the package is incomplete, fetch it again"
    )
