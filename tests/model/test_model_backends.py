import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import CARD, PATCH, check_inputs, content, networks, noise, require_openvino

import wsiseg
from wsiseg.errors import ModelError, OutputShapeError, WeightsError
from wsiseg.model import Model, cache, export, load_model, onnx_backend
from wsiseg.model.card import StageSpec
from wsiseg.model.predictor import StagePredictor
from wsiseg.testing.models import make_colour_model

BACKENDS = ["torch", "onnxruntime", "openvino"]
Write = Callable[..., Path]


@pytest.fixture(params=BACKENDS)
def model(request: pytest.FixtureRequest, package: Path) -> Model:
    if request.param == "openvino":
        require_openvino()
    return load_model(package, backend=request.param, device="cpu", threads=2)


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """The steps of the first stage, one after the other, in float64."""
    return (pixels / 255.0 - [0.1, 0.5, 0.9]) / [0.5, 1.0, 2.0]


def test_a_classifier_gives_what_its_weights_say(model: Model) -> None:
    pixels = noise(3, *PATCH, 3, seed=5)
    head = networks()["patches"].head
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    wanted = preprocess(pixels).mean((1, 2)) @ weight.T + bias
    found = model.predictors[0](pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_segmenter_of_two_inputs_gives_what_its_weights_say(model: Model) -> None:
    pixels, heat = (array[:1] for array in check_inputs()["refine"])
    head = networks()["refine"].head
    kernel, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    image = np.concatenate([pixels / 255.0, heat], axis=-1)
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
    wanted = np.zeros((*PATCH, 2))
    for y, x in np.ndindex(PATCH):
        window = padded[y : y + 3, x : x + 3].transpose(2, 0, 1)
        wanted[y, x] = np.einsum("kcyx,cyx->k", kernel, window) + bias
    found = model.predictors[1](pixels, heat)
    assert found.shape == (1, *PATCH, 2)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), others=st.integers(100, 199), place=st.integers(0, 3))
def test_an_image_does_not_depend_on_its_neighbours(
    model: Model, seed: int, others: int, place: int
) -> None:
    batch = noise(4, *PATCH, 3, seed=seed)
    changed = noise(4, *PATCH, 3, seed=others)
    changed[place] = batch[place]
    predict = model.predictors[0]
    np.testing.assert_array_equal(predict(changed)[place], predict(batch)[place])


def test_calls_repeat_bit_for_bit(model: Model) -> None:
    inputs = check_inputs()["refine"]
    first = model.predictors[1](*inputs)
    np.testing.assert_array_equal(model.predictors[1](*inputs), first)


def test_calls_from_many_threads_give_the_same(model: Model) -> None:
    batches = [noise(4, *PATCH, 3, seed=seed) for seed in range(8)]
    wanted = [model.predictors[0](batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.predictors[0], batches))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_does_not_start_is_an_error_and_no_cpu(tmp_path, monkeypatch) -> None:
    """ONNX Runtime with CUDA but without cuDNN, say, falls back to the CPU by itself."""
    monkeypatch.setattr(
        onnx_backend.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"]
    )
    with pytest.raises(ModelError, match=r"cuda:0: ONNX Runtime .* could not start.*--device cpu"):
        load_model(make_colour_model(tmp_path / "m"), backend="onnxruntime", device="cuda:0")


def test_read_only_and_strided_patches_are_fine(model: Model) -> None:
    wide = noise(2, PATCH[0], 2 * PATCH[1], 3)
    pixels = wide[:, :, ::2]
    pixels.flags.writeable = False
    np.testing.assert_array_equal(
        model.predictors[0](pixels), model.predictors[0](np.ascontiguousarray(pixels))
    )


def test_the_model_says_what_it_is(model: Model, package: Path) -> None:
    assert (model.path, model.device) == (package, "cpu")
    assert model.backend in repr(model)
    assert model.backend in BACKENDS
    assert len(model.digest) == 64


def test_the_export_happens_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(package, backend="onnxruntime")

    def again(*_: object) -> bytes:
        raise AssertionError("exported again")

    monkeypatch.setattr(export, "export_stage", again)
    load_model(package, backend="onnxruntime")


def test_a_warm_load_needs_no_torch(package: Path) -> None:
    load_model(package, backend="onnxruntime")
    code = (
        "import sys, wsiseg.model as m; model = m.load_model(sys.argv[1], device='cpu');"
        "print(model.backend, *sorted({'torch', 'onnx', 'monai'} & set(sys.modules)))"
    )
    root = str(Path(wsiseg.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, str(package)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() in (["onnxruntime"], ["openvino"])


def test_a_cache_that_cannot_be_written_costs_time_only(
    package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = package / "README.md"  # a file where the cache folder should be
    monkeypatch.setenv("WSISEG_HOME", str(blocker))
    model = load_model(package, backend="onnxruntime")
    assert model.predictors[0](noise(1, *PATCH, 3)).shape == (1, 2)
    assert "set WSISEG_HOME" in caplog.text


def test_a_cache_that_cannot_be_written_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "file"))
    made = [cache.cached_file("onnx", str(key), ".onnx", lambda: b"x") for key in range(4)]
    assert all(path.read_bytes() == b"x" for path in made)
    assert caplog.text.count("set WSISEG_HOME") == 1


def test_a_damaged_cache_is_named(package: Path) -> None:
    load_model(package, backend="onnxruntime")
    for path in Path(os.environ["WSISEG_HOME"]).rglob("*.onnx"):
        path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="if it lies in the cache, delete it"):
        load_model(package, backend="onnxruntime")


def test_an_export_that_differs_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    monkeypatch.setattr(export, "ROUNDINGS", -1.0)
    with pytest.raises(ModelError, match=r"differs from torch's .* --backend torch"):
        load_model(package, backend="onnxruntime")


def test_an_export_may_round_as_torch_does(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    monkeypatch.setattr(export, "ROUNDINGS", 100.0)  # of errors of some last bits
    assert load_model(package, backend="onnxruntime").backend == "onnxruntime"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "backend 'tensorflow' is unknown"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"device": "cuda:x", "backend": "torch"}, "unknown"),
        ({"device": "cuda:99", "backend": "torch"}, "finds . CUDA devices"),
        ({"device": "cpu", "precision": "bfloat16"}, "needs torch on a GPU"),
        ({"device": "cpu", "precision": "bfloat16", "backend": "torch"}, "needs a GPU"),
        ({"device": "cuda", "backend": "openvino"}, "openvino needs device cpu"),
        ({"precision": "float16"}, "precision 'float16' is unknown"),
        ({"precision": "int8", "backend": "torch"}, "int8 needs onnxruntime on cpu"),
        ({"precision": "int8", "device": "cuda"}, "int8 needs onnxruntime on cpu"),
    ],
)
def test_what_is_not_there_is_an_error(
    package: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(package, **options)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "needed 1 inputs, found 0"),
        ((noise(2, *PATCH, 3).astype(np.float32),), "float32; read patches"),
        ((noise(2, 4, 6, 3),), r"needed \(2, 6, 4, 3\) uint8"),
        ((noise(0, *PATCH, 3),), r"found \(0,"),
    ],
)
def test_wrong_inputs_are_refused(
    model: Model, inputs: tuple[np.ndarray, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        model.predictors[0](*inputs)


def stage_of(activation: str) -> StageSpec:
    stage = content()["stages"][0]
    stage["weights"] |= {"file": "w.onnx", "sha256": "0" * 64}
    stage["output"]["activation"] = activation
    return StageSpec.model_validate(stage)


@pytest.mark.parametrize(
    ("output", "activation", "message"),
    [
        (np.zeros((2, 3), np.float32), "softmax", r"gave \(2, 3\): needed \(2, 2\)"),
        (np.zeros((1, 2), np.float32), "softmax", r"needed \(2, 2\)"),
        (np.zeros((2, *PATCH, 2), np.float32), "softmax", r"needed \(2, 2\)"),
        (np.array([[0, np.nan], [0, 0]], np.float32), "softmax", "needed finite"),
        (np.array([[0, -np.inf], [0, 0]], np.float32), "sigmoid", "needed finite"),
        (np.array([[0, 1.1], [0, 0]], np.float32), "none", "needed probabilities"),
        (np.array([[-0.1, 1.0], [0, 0]], np.float32), "none", "needed probabilities"),
    ],
)
def test_outputs_are_held_to_the_card(output: np.ndarray, activation: str, message: str) -> None:
    predict = StagePredictor(stage_of(activation), 2, lambda *_: output)
    with pytest.raises(OutputShapeError, match=message):
        predict(noise(2, *PATCH, 3))


def test_probabilities_pass_as_they_are() -> None:
    output = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)
    predict = StagePredictor(stage_of("none"), 2, lambda *_: output)
    np.testing.assert_array_equal(predict(noise(2, *PATCH, 3)), output)


def test_bfloat16_is_checked_with_the_wider_tolerance(package: Path) -> None:
    from wsiseg.model.check import check_predictors
    from wsiseg.model.package import Package

    opened = Package.open(package)
    exact = load_model(package, backend="torch", device="cpu").predictors

    def rough(predictor: Any) -> Any:
        return lambda *inputs: predictor(*inputs) + np.float32(0.02)

    with pytest.raises(ModelError, match="differs"):
        check_predictors(opened, [rough(p) for p in exact])
    results = check_predictors(opened, [rough(p) for p in exact], reduced_precision=True)
    assert [result.stage for result in results] == [s["name"] for s in CARD["stages"]]
    assert all(0.015 < result.error < 0.025 for result in results)


def test_cached_files_are_complete_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no room"):
            cache.write_atomically(tmp_path / "a" / "b", b"content")
    assert list((tmp_path / "a").iterdir()) == []
