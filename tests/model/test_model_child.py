import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import content

import wsiseg
from wsiseg.errors import ModelError, WeightsError
from wsiseg.model import child
from wsiseg.model.package import Package

DEMO = Path(wsiseg.__file__).parent / "bundled" / "models" / "breast-tumour-demo"
Write = Callable[..., Path]


def export(folder: Path, digest: str, stage: str = "refine") -> bytes:
    (weights,) = (s.weights for s in Package.open(folder).card.stages if s.name == stage)
    request = {"folder": str(folder), "digest": digest, "stage": stage, "patch": [6, 4]}
    request |= {"weights": weights.sha256}
    return child.make_in_child("export", request, what="the export")


def test_a_model_is_exported_without_torch_in_this_process(tmp_path: Path) -> None:
    home = tmp_path / "a home with spaces"
    shutil.copytree(DEMO, home / "a model")
    code = (
        "import sys, wsiseg.model as m;"
        "model = m.load_model(sys.argv[1], device='cpu', backend='onnxruntime');"
        "print(model.backend, *sorted({'torch', 'onnx', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home / "a model")],
        env={
            **os.environ,
            "WSISEG_HOME": str(home),
            "PYTHONPATH": str(Path(wsiseg.__file__).parent.parent),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["onnxruntime"]
    assert len(list(home.rglob("*.onnx"))) == 2


def test_what_the_child_raises_arrives_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(DEMO, folder)
    digest = Package.open(folder).digest
    with pytest.raises(ModelError, match="the package changed while it was loaded"):
        export(folder, "0" * 64)
    (folder / "refine.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"refine\.safetensors: cannot be read: No such file"):
        export(folder, digest)


def test_an_export_that_fails_says_why(write: Write) -> None:
    card = content()  # its architecture is known to the tests only, not to a new process
    folder = write(card)
    with pytest.raises(ModelError, match=r"'wsiseg\.tiny_segmenter' is unknown"):
        export(folder, Package.open(folder).digest)


def test_a_child_that_dies_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"the work: its process failed: .*KeyError: 'nonsense'"):
        child.make_in_child("nonsense", {}, what="the work")


def test_a_child_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_SECONDS", 0.01)
    with pytest.raises(ModelError, match=r"the work: took longer than 0\.01 s"):
        child.make_in_child("export", {}, what="the work")


def test_no_python_to_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ModelError, match="'/nowhere/python' cannot be started"):
        child.make_in_child("export", {}, what="the work")


def test_the_child_imports_from_where_the_parent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_of_the_test.py").write_text("raise SystemExit('imported')")
    assert "No module" in child.run_module("plugin_of_the_test", tmp_path, what="it")
    monkeypatch.syspath_prepend(tmp_path)
    assert child.run_module("plugin_of_the_test", tmp_path, what="it") == "imported"
