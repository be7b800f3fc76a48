import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_model import PATCH, noise, require_openvino

import wsiseg
from wsiseg.errors import ModelError, WeightsError
from wsiseg.model import load_model, openvino_backend
from wsiseg.model.onnx_backend import OnnxNetwork
from wsiseg.model.openvino_backend import OpenvinoNetwork


@pytest.fixture
def graph(package: Path) -> Path:
    load_model(package, backend="onnxruntime")
    found = {path: path.stat().st_size for path in package.parent.parent.rglob("*.onnx")}
    return min(found, key=found.__getitem__)


def test_openvino_that_is_not_there_is_named(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"pip install 'wsiseg\[openvino\]'"):
        load_model(package, backend="openvino")


def test_nothing_is_reported_or_written_elsewhere(package: Path, tmp_path: Path) -> None:
    require_openvino()
    code = (
        "import sys, wsiseg.model as m;"
        "model = m.load_model(sys.argv[1], backend='openvino');"
        "print(model.backend, *(n for n in sys.modules if n.startswith('openvino_telemetry')))"
    )
    home = tmp_path / "user"
    home.mkdir()
    load_model(package, backend="openvino")  # the tiny networks are exported by this process only
    done = subprocess.run(
        [sys.executable, "-c", code, str(package)],
        env={
            **os.environ,
            "HOME": str(home),
            "USERPROFILE": str(home),
            "PYTHONPATH": str(Path(wsiseg.__file__).parent.parent),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["openvino"]
    assert list(home.iterdir()) == []


def test_what_it_cannot_load_is_named(tmp_path: Path) -> None:
    require_openvino()
    path = tmp_path / "network.onnx"
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=r"network\.onnx: OpenVINO .* cannot load it"):
        OpenvinoNetwork(path)


def test_inputs_that_do_not_fit_are_an_error(graph: Path) -> None:
    require_openvino()
    with pytest.raises(ModelError, match="OpenVINO failed on inputs"):
        OpenvinoNetwork(graph)(np.zeros((1, 2, 3, 5), np.uint8))


@pytest.mark.parametrize("make", [OnnxNetwork, OpenvinoNetwork])
def test_workers_at_once_give_what_one_call_gives(graph: Path, make: type) -> None:
    require_openvino()
    network = make(graph, threads=2)
    batches = [noise(n, *PATCH, 3, seed=n) for n in (1, 2, 3, 2, 1, 4)]
    wanted = [network(batch) for batch in batches]
    several = network.for_workers(3, 1)
    assert several is not network
    assert network.for_workers(3, 1) is several
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(several, batches))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(network(batches[0]), wanted[0])  # it still works itself


def test_graphs_of_one_batch_size_take_any(graph: Path, tmp_path: Path) -> None:
    require_openvino()
    import onnx

    model = onnx.load(graph)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    fixed = tmp_path / "fixed.onnx"
    onnx.save(model, fixed)
    pixels = noise(5, *PATCH, 3)
    wanted = OnnxNetwork(graph)(pixels)
    for network in (OnnxNetwork(fixed), OpenvinoNetwork(fixed)):
        np.testing.assert_allclose(network(pixels), wanted, atol=1e-6)


def test_telemetry_of_another_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    require_openvino()
    theirs = object()
    monkeypatch.setitem(sys.modules, openvino_backend.TELEMETRY, theirs)
    openvino_backend._import_openvino()
    assert sys.modules[openvino_backend.TELEMETRY] is theirs


def test_threads_that_use_openvino_first_do_not_wait_for_each_other_forever() -> None:
    require_openvino()
    code = """
import sys, threading
from wsiseg.model.openvino_backend import _import_openvino
openvino = _import_openvino()
sys.setswitchinterval(1e-6)
ready = threading.Barrier(4)
def convert():
    ready.wait()
    openvino.Type.f32.to_dtype()  # part of every call of a network
threads = [threading.Thread(target=convert) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(wsiseg.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == ["done"], done.stderr
