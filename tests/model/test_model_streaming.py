"""Streams of batches: the same as calls, also where memory is short."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_device import AdversarialDevice
from tiny_model import PATCH, check_inputs, content, networks, noise

from wsiseg.errors import DeviceMemoryError, ModelError, OutputShapeError, SmallerBatchWarning
from wsiseg.model import Model, load_model
from wsiseg.model.batches import in_parts, join_arrays
from wsiseg.model.card import StageSpec
from wsiseg.model.cuda import is_out_of_memory
from wsiseg.model.predictor import FunctionPredictor, StagePredictor
from wsiseg.model.preprocessed import PreprocessedNetwork
from wsiseg.model.torch_backend import TorchNetwork

WAYS = ["one by one", "overlapped"]


def stage_spec(index: int = 0) -> StageSpec:
    stage = content()["stages"][index]
    stage["weights"] |= {"file": "w.safetensors", "sha256": "0" * 64}
    return StageSpec.model_validate(stage)


class Small(torch.nn.Module):
    """A network for which more than `limit` patches at once are too many."""

    def __init__(self, network: torch.nn.Module, limit: int, message: str = "") -> None:
        super().__init__()
        self.network = network
        self.limit = limit
        self.message = message
        self.sizes: list[int] = []

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(inputs[0]))
        if len(inputs[0]) > self.limit:
            if self.message:
                raise RuntimeError(self.message)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return self.network(*inputs)


class ImmediateDevice(AdversarialDevice):
    """Fails when work is added, as CUDA does when it cannot have memory."""

    def lane(self):
        lane = super().lane()
        add = lane.run

        def run(work):
            add(work)
            self.synchronize()

        lane.run = run
        return lane


def network_of(way: str, limit: int = 1000, message: str = "", index: int = 0):
    name = ("patches", "refine")[index]
    small = Small(networks()[name], limit, message)
    network = TorchNetwork(PreprocessedNetwork(small, stage_spec(index)))
    if way == "overlapped":
        network._gpu = ImmediateDevice(0)
    return network, small


@pytest.fixture(params=["torch", "onnxruntime"])
def model(request: pytest.FixtureRequest, package: Path) -> Model:
    return load_model(package, backend=request.param, device="cpu", threads=2)


@given(
    counts=st.lists(st.integers(1, 9), max_size=5),
    size=st.integers(1, 6),
    ahead=st.integers(1, 4),
)
def test_parts_are_of_one_size_and_come_back_together(counts, size, ahead):
    batches = [(noise(n, 2, 3, seed=i),) for i, n in enumerate(counts)]
    seen = []

    def run(parts):
        waiting = []
        for (part,) in parts:
            seen.append(len(part))
            waiting.append(part.astype(np.float32))
            if len(waiting) == ahead:
                yield waiting.pop(0)
        yield from waiting

    found = list(in_parts(run, iter(batches), size, join_arrays))
    assert [len(f) for f in found] == counts
    for values, (pixels,) in zip(found, batches, strict=True):
        np.testing.assert_array_equal(values, pixels)
    assert set(seen) <= {size}


def test_a_stream_gives_what_calls_give(model: Model) -> None:
    batches = [tuple(check_inputs(3)["refine"]) for _ in range(4)]
    found = list(model.predictors[1].stream(iter(batches)))
    for values, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(values, model.predictors[1](*batch))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 6), n=st.integers(1, 9), limit=st.integers(1, 9))
@pytest.mark.parametrize("way", WAYS)
def test_short_memory_changes_neither_values_nor_order(way, count, n, limit):
    batches = [(noise(n, *PATCH, 3, seed=i),) for i in range(count)]
    network, small = network_of(way, limit)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = list(network.stream(iter(batches)))
    enough = network_of("one by one")[0]
    assert len(found) == count
    for values, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(values, enough(*batch), atol=1e-6)
    if count:
        tried = [n]
        while tried[-1] > limit:
            tried.append(tried[-1] // 2)
        assert len(heard) == len(tried) - 1
        assert set(small.sizes) == set(tried)


@pytest.mark.parametrize("way", WAYS)
def test_memory_that_runs_short_later_loses_no_batch(way):
    batches = [(noise(4, *PATCH, 3, seed=i),) for i in range(8)]
    network, small = network_of(way)

    def source():
        for i, batch in enumerate(batches):
            small.limit = 4 if i < 5 else 2
            yield batch

    with pytest.warns(SmallerBatchWarning, match=r"with 4 patches of \(6, 4, 3\).*goes on with 2"):
        found = list(network.stream(source()))
    enough = network_of("one by one")[0]
    np.testing.assert_allclose(found, [enough(*batch) for batch in batches], atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_what_fitted_once_is_taken_from_then_on(way):
    network, small = network_of(way, limit=2)
    batch = (noise(8, *PATCH, 3),)
    with pytest.warns(SmallerBatchWarning):
        list(network.stream([batch]))
    small.sizes.clear()
    list(network.stream([batch]))
    network(*batch)
    assert set(small.sizes) == {2}


def test_what_large_windows_need_holds_back_no_patches():
    """One network serves both; only the large ones were too many."""
    network, small = network_of("one by one", limit=2)
    with pytest.warns(SmallerBatchWarning):
        network(noise(8, *(2 * n for n in PATCH), 3))
    small.limit = 8
    small.sizes.clear()
    network(noise(8, *PATCH, 3))
    assert small.sizes == [8]


@pytest.mark.parametrize("way", WAYS)
def test_too_little_for_one_patch_is_an_error_with_numbers(way):
    network, _ = network_of(way, limit=0)
    with (
        pytest.warns(SmallerBatchWarning),
        pytest.raises(DeviceMemoryError, match=r"1 patches .* 3.00 GiB.*--device cpu") as caught,
    ):
        list(network.stream([(noise(4, *PATCH, 3),)]))
    assert isinstance(caught.value, MemoryError)


def test_calls_take_smaller_batches_too():
    network, _ = network_of("one by one", limit=3)
    pixels = noise(7, *PATCH, 3)
    with pytest.warns(SmallerBatchWarning):
        found = network(pixels)
    np.testing.assert_allclose(found, network_of("one by one")[0](pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("CUDA error: out of memory", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_memory_is_told_from_other_faults(message, memory):
    assert is_out_of_memory(RuntimeError(message)) == memory
    network, _ = network_of("overlapped", limit=1, message=message)
    batch = (noise(2, *PATCH, 3),)
    if memory:
        with pytest.warns(SmallerBatchWarning):
            assert len(list(network.stream([batch]))) == 1
    else:
        with pytest.raises(RuntimeError, match="shapes"):
            list(network.stream([batch]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [9, 2])
def test_results_left_on_the_device_are_those_of_calls(way, limit):
    batches = [tuple(check_inputs(5)["refine"]) for _ in range(4)]
    network, _ = network_of(way, limit, index=1)
    predictor = StagePredictor(stage_spec(1), 2, network)
    assert predictor.device == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallerBatchWarning)
        found = [output.numpy().copy() for output in predictor.stream_on_device(batches)]
    wanted = [network_of("one by one", index=1)[0](*batch) for batch in batches]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_has_no_device_says_so():
    predictor = StagePredictor(stage_spec(), 2, lambda pixels: np.zeros((len(pixels), 2)))
    assert predictor.device is None
    with pytest.raises(ModelError, match="--backend torch"):
        next(predictor.stream_on_device([(noise(1, *PATCH, 3),)]))


@pytest.mark.parametrize("way", WAYS)
def test_streams_are_held_to_the_card(way):
    network, _ = network_of(way)
    predictor = StagePredictor(stage_spec(), 2, network)
    with pytest.raises(ModelError, match="needed 1 inputs, found 0"):
        list(predictor.stream([()]))
    with pytest.raises(OutputShapeError, match=r"gave \(2, 2\): needed \(2, 3\)"):
        list(StagePredictor(stage_spec(), 3, network).stream([(noise(2, *PATCH, 3),)]))
    network._module.network.network.head.bias.data.fill_(torch.nan)
    with pytest.raises(OutputShapeError, match="needed finite"):
        list(predictor.stream([(noise(2, *PATCH, 3),)]))


def test_a_function_can_be_a_predictor():
    predictor = FunctionPredictor(lambda pixels: pixels.mean((1, 2), dtype=np.float32))
    batches = [(noise(2, *PATCH, 3, seed=i),) for i in range(3)]
    found = list(predictor.stream(batches))
    np.testing.assert_array_equal(found, [predictor(*batch) for batch in batches])


def test_a_pipeline_is_kept_for_the_next_stream(monkeypatch: pytest.MonkeyPatch):
    network, _ = network_of("overlapped")
    batch = (noise(2, *PATCH, 3),)
    list(network.stream([batch]))
    (kept,) = network._idle.values()
    list(network.stream([batch, batch]))
    assert list(network._idle.values()) == [kept]
    dropped = network.stream([batch] * 9)
    next(dropped)
    dropped.close()
    assert not network._idle


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_gives_what_the_cpu_gives(write: Callable[..., Path], precision: str) -> None:
    package = write()
    exact = load_model(package, backend="torch", device="cpu").predictors
    fast = load_model(package, device="cuda", precision=precision).predictors
    tolerance = 1e-4 if precision == "float32" else 0.05
    for k, name in enumerate(("patches", "refine")):
        batches = [tuple(check_inputs(8)[name]) for _ in range(7)]
        wanted = [exact[k](*batch) for batch in batches]
        np.testing.assert_allclose([fast[k](*b) for b in batches], wanted, atol=tolerance)
        np.testing.assert_allclose(list(fast[k].stream(batches)), wanted, atol=tolerance)
        left = [output.cpu().numpy() for output in fast[k].stream_on_device(batches)]
        np.testing.assert_allclose(left, wanted, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_is_captured_and_repeats_bit_for_bit(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = load_model(package, device="cuda").predictors[1]
    batches = [tuple(check_inputs(4)["refine"]) for _ in range(20)]
    found = list(predictor.stream(batches))
    assert "no CUDA graph" not in caplog.text
    np.testing.assert_array_equal(found, [found[0]] * len(found))
    np.testing.assert_array_equal(list(predictor.stream(batches)), found)


class Synchronizing(torch.nn.Module):
    """What no graph can hold: a value the host looks at."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) * (1.0 if float(x.sum()) < 1e30 else 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_cannot_be_captured_is_run_layer_by_layer(caplog: pytest.LogCaptureFixture) -> None:
    module = PreprocessedNetwork(Synchronizing(networks()["patches"]), stage_spec())
    network = TorchNetwork(module, device="cuda")
    batches = [(noise(4, *PATCH, 3, seed=i),) for i in range(9)]
    found = list(network.stream(batches))
    assert "no CUDA graph" in caplog.text
    wanted = [network_of("one by one")[0](*batch) for batch in batches]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_full_gpu_takes_smaller_batches() -> None:
    class Hungry(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = x.new_zeros((len(x), 64 << 20))  # 256 MB per patch
            return self.network(x) + wide[:, :1]

    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3e9 / total))
    try:
        module = PreprocessedNetwork(Hungry(networks()["patches"]), stage_spec())
        network = TorchNetwork(module, device="cuda")
        batches = [(noise(32, *PATCH, 3, seed=i),) for i in range(3)]
        with pytest.warns(SmallerBatchWarning, match="GB free"):
            found = list(network.stream(batches))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    wanted = [network_of("one by one")[0](*batch) for batch in batches]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
