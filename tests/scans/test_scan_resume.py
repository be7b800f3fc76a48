"""A run on a scan that is ended at any moment goes on, and gives the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsiseg.engine import Journal
from wsiseg.engine.events import TilesDone
from wsiseg.geometry import Affine
from wsiseg.model import load_model
from wsiseg.options import RunOptions
from wsiseg.scans import segment_scan
from wsiseg.source import open_volume
from wsiseg.testing.scan_models import make_scan_model

OPTIONS = RunOptions(threads=1, batch_size=2)


def scan():
    values = np.random.default_rng(0).random((70, 40, 44), dtype=np.float32)
    for axis in range(3):
        values = (values + np.roll(values, 1, axis)) / 2
    values = 0.5 + 3 * (values - values.mean())
    return open_volume(values, affine=Affine.from_spacing((1.0, 1.5, 1.0)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    return load_model(make_scan_model(folder, patch=(8, 16, 16), spacing_mm=(1.5, 1.5, 1.5)))


@pytest.fixture(scope="module")
def whole(model):
    return np.array(segment_scan(scan(), model, options=OPTIONS).labels)


class EndedError(Exception):
    """Ends a run from inside."""


def ended_after(tiles):
    seen = 0

    def listen(event):
        nonlocal seen
        if isinstance(event, TilesDone):
            seen += event.tiles
            if seen >= tiles:
                raise EndedError

    return listen


@pytest.mark.parametrize("tiles", [20, 70, 110])
def test_goes_on_where_it_was_ended(model, whole, tmp_path, tiles):
    with Journal(tmp_path / "work") as journal, pytest.raises(EndedError):
        segment_scan(scan(), model, options=OPTIONS, journal=journal, listen=ended_after(tiles))
    with Journal(tmp_path / "work") as journal:
        result = segment_scan(scan(), model, options=OPTIONS, journal=journal)
        assert np.array_equal(result.labels, whole)
        if tiles > 20:
            assert result.reports[-1].kept > 0
    with Journal(tmp_path / "work") as journal:
        result = segment_scan(scan(), model, options=OPTIONS, journal=journal)
        assert result.reports[-1].kept == result.reports[-1].tiles
        assert np.array_equal(result.labels, whole)


MADE = ("labels.nii.gz", "statistics.json", "statistics.csv", "preview.png")
"""What a result has, but for its record, in which times stand."""


def files(result, out):
    folder = result.write(out, name="scan")
    return {name: (folder / name).read_bytes() for name in MADE}


def test_the_files_have_the_same_bytes(model, tmp_path):
    undisturbed = files(segment_scan(scan(), model, options=OPTIONS), tmp_path / "whole")
    for tiles in (20, 70, 110):
        work = tmp_path / f"work{tiles}"
        with Journal(work) as journal, pytest.raises(EndedError):
            ended = ended_after(tiles)
            segment_scan(scan(), model, options=OPTIONS, journal=journal, listen=ended)
        with Journal(work) as journal:
            result = segment_scan(scan(), model, options=OPTIONS, journal=journal)
            assert files(result, tmp_path / f"out{tiles}") == undisturbed


def test_another_scan_starts_over(model, whole, tmp_path):
    with Journal(tmp_path / "work") as journal:
        segment_scan(scan(), model, options=OPTIONS, journal=journal)
    other = open_volume(
        np.zeros((70, 40, 44), np.float32), affine=Affine.from_spacing((1.0, 1.5, 1.0))
    )
    with Journal(tmp_path / "work") as journal:
        result = segment_scan(other, model, options=OPTIONS, journal=journal)
        assert result.reports[-1].kept == 0
        assert not result.labels.any()


def test_a_front_in_a_file_changes_no_bit(model, whole, monkeypatch):
    from wsiseg.engine import scan_plan

    made = scan_plan.ScanStagePlan

    def spilled(**fields):
        return made(**fields | {"memory": "spill"})

    monkeypatch.setattr(scan_plan, "ScanStagePlan", spilled)
    result = segment_scan(scan(), model, options=OPTIONS)
    assert result.plan.stages[0].memory == "spill"
    assert np.array_equal(result.labels, whole)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import os, signal
from pathlib import Path
from test_scan_resume import OPTIONS, scan
from wsiseg.engine import Journal
from wsiseg.engine.events import TilesDone
from wsiseg.scans import segment_scan
seen = 0
def listen(event):
    global seen
    if isinstance(event, TilesDone):
        seen += event.tiles
        if seen >= {tiles}:
            os.kill(os.getpid(), signal.SIGKILL)
with Journal(Path({work!r})) as journal:
    segment_scan(scan(), Path({model!r}), options=OPTIONS, journal=journal, listen=listen)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [20, 70, 110])
def test_killed_by_the_system(model, whole, tmp_path, tiles):
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        tiles=tiles,
        work=str(tmp_path / "work"),
        model=str(model.path),
    )
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    undisturbed = files(segment_scan(scan(), model, options=OPTIONS), tmp_path / "whole")
    with Journal(tmp_path / "work") as journal:
        result = segment_scan(scan(), model, options=OPTIONS, journal=journal)
        assert np.array_equal(result.labels, whole)
        assert files(result, tmp_path / "out") == undisturbed
