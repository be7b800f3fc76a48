import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_model import content

from wsiseg.errors import ModelError
from wsiseg.model import load, load_model, measure, tune, tuning
from wsiseg.model.cache import user_models

Write = Callable[..., Path]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the requests that were measured; each is answered at once."""
    requests: list[dict[str, Any]] = []

    def answer(job: str, request: dict[str, Any], *, what: str) -> bytes:
        assert (job, what) == ("measure", "tiny: measurement")
        requests.append(json.loads(json.dumps(request)))
        stages = [
            tuning.StageTuning(stage["name"], stage["batches"][0], 1, 1, 0.1)
            for stage in request["stages"]
        ]
        backend = request["backends"][-1]
        return tuning.tuning_bytes(tuning.Tuning(backend, tuple(stages), {backend: 1.0}))

    monkeypatch.setattr(tuning, "make_in_child", answer)
    monkeypatch.setattr(tuning, "openvino_is_installed", lambda: True)
    return requests


def test_measuring_happens_once(package: Path, measured: list[dict[str, Any]]) -> None:
    first = tune(package)
    assert first == tune(package)
    assert len(measured) == 1
    assert [stage.stage for stage in first.stages] == ["patches", "refine"]


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(tuning, "cpu_name", lambda: "another CPU"),
        lambda patch: patch.setattr(tuning, "usable_cores", lambda: 77),
        lambda patch: patch.setattr(tuning, "code_fingerprint", lambda: "other code"),
        lambda patch: patch.setattr(tuning.metadata, "version", lambda name: f"{name} 99"),
        lambda patch: patch.setattr(tuning, "openvino_is_installed", lambda: False),
        lambda patch: patch.setattr(tuning, "eight_bits_saturate", lambda: "other CPU flags"),
    ],
)
def test_what_a_measurement_holds_for_is_in_its_key(
    package: Path,
    measured: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    tune(package)
    change(monkeypatch)
    tune(package)
    assert len(measured) == 2


def test_other_questions_are_measured_anew(
    package: Path, write: Write, measured: list[dict[str, Any]]
) -> None:
    tune(package)
    tune(package, threads=1)
    tune(package, backends=("onnxruntime",))
    assert [request["workers"] for request in measured][1] == 1
    assert measured[2]["backends"] == ["onnxruntime"]
    write(content() | {"version": "2"}, overwrite=True)
    tune(package)
    assert len(measured) == 4


def test_a_request_is_what_the_card_says(package: Path, measured: list[dict[str, Any]]) -> None:
    tune(package, threads=4)
    (request,) = measured
    assert request["workers"] == 4
    patches, refine = request["stages"]
    assert patches["inputs"] == [{"shape": [6, 4, 3], "dtype": "uint8"}]
    assert [spec["dtype"] for spec in refine["inputs"]] == ["uint8", "float32"]
    assert patches["batches"] == [64, 32, 16]
    # Strides of 2 px at 1 µm; 4 x 2 px without halo at 2 µm.
    assert patches["patches_per_mm2"] == pytest.approx(1e6 / (2 * 2))
    assert refine["patches_per_mm2"] == pytest.approx(1e6 / (8 * 4))


@pytest.mark.parametrize(
    ("side", "batches"), [(64, [64, 32, 16]), (256, [4, 8, 2, 1]), (384, [1, 2]), (2048, [1])]
)
def test_batches_stay_small(side: int, batches: list[int]) -> None:
    assert sorted(set(measured_batches(side))) == sorted(batches)
    assert measured_batches(side)[0] == batches[0]


def measured_batches(side: int) -> list[int]:
    from wsiseg.model.card import StageSpec

    stage = content()["stages"][0]
    stage["inputs"][0] |= {"patch": [side, side]}
    stage["weights"] |= {"file": "w.onnx", "sha256": "0" * 64}
    return list(tuning._shapes(StageSpec.model_validate(stage))["batches"])


def test_unknown_candidates_are_refused(package: Path) -> None:
    with pytest.raises(ModelError, match="'tensorflow'"):
        tune(package, backends=("tensorflow",))


def test_a_damaged_result_is_named(package: Path, measured: list[dict[str, Any]]) -> None:
    tune(package)
    for path in (user_models().parent / "cache" / "tuning").iterdir():
        path.write_text("{}")
    with pytest.raises(ModelError, match=r"damaged: .* delete it"):
        tune(package)


class Clock:
    """Time that passes only while a fake network runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeNetwork:
    def __init__(self, clock: Clock, seconds: Callable[[int], float], value: float = 0.0) -> None:
        self.clock, self.seconds, self.value = clock, seconds, value

    def for_workers(self, workers: int, threads: int) -> "FakeNetwork":
        return self

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        self.clock.now += self.seconds(len(inputs[0]))
        return np.full((len(inputs[0]), 2), self.value, np.float32)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FakeNetwork | ModelError]]:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    networks: dict[str, Any] = {"clock": clock}

    def made(backend: str, *_: object, **__: object) -> FakeNetwork:
        if isinstance(networks[backend], ModelError):
            raise networks[backend]
        return networks[backend]

    package = SimpleNamespace(card=SimpleNamespace(stages=[SimpleNamespace(name="patches")]))
    monkeypatch.setattr(measure, "Package", SimpleNamespace(open=lambda _: package))
    monkeypatch.setattr(measure, "graph_network", made)
    monkeypatch.setattr(measure, "build_network", made)
    return networks


REQUEST: dict[str, Any] = {
    "folder": "",
    "backends": ["onnxruntime", "openvino"],
    "torch_from": 0.0,
    "workers": 1,
    "stages": [
        {
            "graph": "graph",
            "name": "patches",
            "inputs": [{"shape": [2, 2, 3], "dtype": "uint8"}],
            "batches": [4, 8, 2],
            "patches_per_mm2": 10.0,
        }
    ],
}


def run(fakes: dict[str, Any], usual: Any, other: Any) -> dict[str, Any]:
    fakes |= {"onnxruntime": usual, "openvino": other}
    return json.loads(measure.measure_job(REQUEST))


@pytest.mark.parametrize(
    ("other", "chosen"),
    [(0.80, "openvino"), (0.90, "onnxruntime"), (1.0, "onnxruntime"), (1.5, "onnxruntime")],
)
def test_only_a_clear_winner_replaces_the_default(
    fakes: dict[str, Any], other: float, chosen: str
) -> None:
    clock = fakes["clock"]
    usual = FakeNetwork(clock, lambda n: 0.01 * n)
    found = run(fakes, usual, FakeNetwork(clock, lambda n: 0.01 * n * other))
    assert found["backend"] == chosen
    assert found["seconds_per_mm2"] == pytest.approx({"onnxruntime": 0.1, "openvino": 0.1 * other})
    assert found["stages"][0]["batch_size"] == 4


@pytest.mark.parametrize(
    ("share", "chosen"), [(0.5, "torch"), (0.75, "openvino"), (1.5, "openvino")]
)
def test_torch_has_to_win_by_more(fakes: dict[str, Any], share: float, chosen: str) -> None:
    clock = fakes["clock"]
    fakes |= {
        "onnxruntime": FakeNetwork(clock, lambda n: 0.01 * n),
        "openvino": FakeNetwork(clock, lambda n: 0.008 * n),
        "torch": FakeNetwork(clock, lambda n: 0.01 * n * share),
    }
    candidates = {"backends": ["onnxruntime", "openvino", "torch"]}
    found = json.loads(measure.measure_job(REQUEST | candidates))
    assert found["backend"] == chosen
    assert found["seconds_per_mm2"]["torch"] == pytest.approx(0.1 * share)


def test_torch_may_be_the_usual_one(fakes: dict[str, Any]) -> None:
    clock = fakes["clock"]
    fakes |= {
        "torch": FakeNetwork(clock, lambda n: 0.01 * n),
        "onnxruntime": FakeNetwork(clock, lambda n: 0.02 * n),
    }
    candidates = {"backends": ["torch", "onnxruntime"]}
    assert json.loads(measure.measure_job(REQUEST | candidates))["backend"] == "torch"


def test_torch_is_not_loaded_for_networks_that_are_quick(fakes: dict[str, Any]) -> None:
    clock = fakes["clock"]
    fakes |= {
        "onnxruntime": FakeNetwork(clock, lambda n: 0.01 * n),
        "torch": ModelError("it was loaded"),
    }
    candidates = {"backends": ["onnxruntime", "torch"], "torch_from": 0.2}  # they take 0.1
    assert set(json.loads(measure.measure_job(REQUEST | candidates))["seconds_per_mm2"]) == {
        "onnxruntime"
    }


def test_a_backend_that_fails_or_differs_is_no_candidate(fakes: dict[str, Any]) -> None:
    clock = fakes["clock"]
    usual = FakeNetwork(clock, lambda n: 0.01 * n)
    for other in (ModelError("no"), FakeNetwork(clock, lambda n: 0.001 * n, value=0.01)):
        assert set(run(fakes, usual, other)["seconds_per_mm2"]) == {"onnxruntime"}
    with pytest.raises(ModelError, match="no"):
        run(fakes, ModelError("no"), usual)


def test_the_batch_that_wins_is_taken(fakes: dict[str, Any]) -> None:
    clock = fakes["clock"]
    network = FakeNetwork(clock, lambda n: 0.01 + 0.001 * n)  # a cost per call: larger is better
    slow = FakeNetwork(clock, lambda n: 0.01 * n)
    (stage,) = run(fakes, network, slow)["stages"]
    assert stage["batch_size"] == 8
    assert stage["seconds_per_patch"] == pytest.approx((0.01 + 0.008) / 8)


def test_time_that_is_up_ends_the_search_not_the_choice(fakes: dict[str, Any]) -> None:
    clock = fakes["clock"]
    found = run(
        fakes,
        FakeNetwork(clock, lambda n: 10.0 + n),
        FakeNetwork(clock, lambda n: 1.0 + n),
    )
    assert found["backend"] == "openvino"
    assert found["stages"][0]["batch_size"] == 4


def test_a_model_is_measured_for_real(package: Path) -> None:
    found = tune(package)
    assert found.backend in found.seconds_per_mm2
    assert all(stage.seconds_per_patch > 0 for stage in found.stages)


def test_auto_runs_in_what_was_measured(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tuning.Tuning("onnxruntime", (tuning.StageTuning("patches", 8, 2, 1, 0.1),), {})
    monkeypatch.setattr(load, "tune_package", lambda *_, **__: chosen)
    model = load_model(package, device="cpu")
    assert (model.backend, model.tuning) == ("onnxruntime", chosen)
    assert load_model(package, backend="onnxruntime").tuning is None


def test_a_measurement_that_fails_stops_no_run(
    package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("it was killed")

    monkeypatch.setattr(load, "tune_package", fail)
    assert load_model(package, device="cpu").backend == "onnxruntime"
    assert "it was killed; the model runs in ONNX Runtime" in caplog.text
