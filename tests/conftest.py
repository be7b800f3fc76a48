"""Shared fixtures: where the real data is, and hypothesis profiles."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from wsiseg.model import load
from wsiseg.model.tuning import Tuning

settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))

DATA = Path(
    os.environ.get("WSISEG_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data")
)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real slides, masks and volumes; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data in {DATA}; set WSISEG_TEST_DATA")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def _unmeasured() -> Iterator[None]:
    """Let the default backend win at once: which is fastest here is no business of most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "tune_package", lambda *_, **__: Tuning("onnxruntime", (), {}))
        yield
