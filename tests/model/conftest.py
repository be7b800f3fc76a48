"""Fixtures around the tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_model import build, check_inputs, content, networks

from wsiseg.model import networks as networks_module
from wsiseg.model.package import write_package


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test's models and cache to itself, and make the tiny networks buildable."""
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(networks_module, "build", build)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny model (or a changed card) and return its folder."""

    def write(card: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = tmp_path / "packages" / "tiny"
        given = {"networks": networks(), "check_inputs": check_inputs()} | changes
        write_package(folder, card=card or content(), **given)
        return folder

    return write


@pytest.fixture
def package(write: Callable[..., Path]) -> Path:
    return write()
