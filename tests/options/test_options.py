"""Options: what makes no sense is refused when it is said, not when it has done its harm."""

import json
import math
from dataclasses import asdict, fields
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import UsageError
from wsiseg.options import (
    DETECTORS,
    DamageOptions,
    EmbedOptions,
    ExportOptions,
    RunOptions,
    SegmentOptions,
    TissueOptions,
    UncertaintyOptions,
)

NO_NUMBERS = (math.nan, math.inf, -math.inf, -1, True, "1", None, [1])
NO_SHARES = (*NO_NUMBERS, 1.01, 2)
NO_COUNTS = (0, -4, 1.5, 1.0, math.nan, True, "1")
NO_NAMES = ("banana", "", "AUTO", 3, None)

REFUSED = {
    TissueOptions: {
        "detector": NO_NAMES,
        "spacing_um": (*NO_NUMBERS, 0, 1e-9, 1e9),
        "closing_um": NO_NUMBERS,
        "min_hole_um2": NO_NUMBERS,
        "min_speck_um2": NO_NUMBERS,
        "min_fraction": NO_SHARES,
    },
    ExportOptions: {
        "frame": NO_NAMES,
        "object_type": NO_NAMES,
        "simplify_um": NO_NUMBERS,
        "min_area_um2": NO_NUMBERS,
        "min_hole_um2": NO_NUMBERS,
        "probabilities": (None, "liver", ("",), (1,), {"liver"}, True),
    },
    RunOptions: {
        "backend": NO_NAMES,
        "precision": NO_NAMES,
        "decoding": NO_NAMES,
        "skip_below": NO_SHARES,
        "batch_size": NO_COUNTS,
        "threads": NO_COUNTS,
        "memory_bytes": NO_COUNTS,
        "memory_plan": NO_NAMES[:-1],
    },
    SegmentOptions: {
        "tissue": (None, ExportOptions()),
        "export": (None, {}),
        "run": (None, TissueOptions()),
        "uncertainty": (None, ("entropy",)),
        "damage": (None, 0.01),
    },
    UncertaintyOptions: {
        "layers": (None, "entropy", ("banana",), ("entropy", ""), 3, {"tta"}),
        "tta_views": (*NO_COUNTS, 2, 5, 9),
        "dropout_samples": (*NO_COUNTS, 1),
        "seed": (-1, 1.5, True, "1", math.nan),
    },
    DamageOptions: {"max_corrupt": NO_SHARES},
    EmbedOptions: {"tissue": (None, 0.5), "run": (None, TissueOptions())},
}

UNCHECKED = {"exclude_pen", "compress", "device", "parquet", "degraded"}
"""Switches are taken as true or false; what devices there are only a run can tell."""


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [(g, n, v) for g, names in REFUSED.items() for n, values in names.items() for v in values],
)
def test_what_makes_no_sense_is_refused_by_name(group, name, value):
    with pytest.raises(UsageError) as caught:
        group(**{name: value})
    assert str(caught.value).startswith(f"{group.__name__}.{name}: needed ")
    assert str(caught.value).endswith(f", found {value!r}")
    assert len(caught.value.args) == 1


def test_every_option_is_looked_at():
    for group, names in REFUSED.items():
        assert {f.name for f in fields(group)} - UNCHECKED == set(names)


@given(share=st.floats(0, 1), size=st.floats(0, 1e9), count=st.integers(1, 2**40))
def test_what_makes_sense_is_taken(share, size, count):
    tissue = TissueOptions(min_fraction=share, closing_um=size, min_hole_um2=size)
    export = ExportOptions(simplify_um=size, min_area_um2=size)
    run = RunOptions(skip_below=share, batch_size=count, threads=count, memory_bytes=count)
    assert (tissue.min_fraction, tissue.closing_um, export.min_area_um2) == (share, size, size)
    assert (run.skip_below, run.batch_size, run.memory_bytes) == (share, count, count)


def test_numbers_of_numpy_become_those_of_python():
    run = RunOptions(batch_size=np.int64(4), skip_below=np.float32(0.5))
    options = SegmentOptions(run=run, tissue=TissueOptions(spacing_um=np.float64(4)))
    assert options == SegmentOptions(
        run=RunOptions(batch_size=4, skip_below=0.5), tissue=TissueOptions(spacing_um=4.0)
    )
    json.dumps(asdict(options))  # as run.json has it


def test_layers_come_in_one_order_and_once():
    options = UncertaintyOptions(layers=["tta", "entropy", "tta"])
    assert options == UncertaintyOptions(layers=("entropy", "tta"))


def test_a_detector_may_be_installed(monkeypatch):
    entry = EntryPoint("mine", "nowhere:nothing", DETECTORS)
    found = {DETECTORS: EntryPoints((entry,))}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found[group])
    assert TissueOptions(detector="mine").detector == "mine"
    with pytest.raises(UsageError, match="auto, saturation, color, none, mine, found 'yours'"):
        TissueOptions(detector="yours")
