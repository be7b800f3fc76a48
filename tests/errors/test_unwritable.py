"""What the system's refusal to write becomes, wherever it happens."""

import errno
import os
from pathlib import Path

import pytest

from wsiseg.annotations._files import writing, writing_whole
from wsiseg.draw import canvas
from wsiseg.engine import finished_folder
from wsiseg.errors import (
    AnnotationError,
    DiskFullError,
    HeatmapError,
    RunError,
    WsisegError,
    unwritable,
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refusal(code: int, path: object = None) -> OSError:
    return OSError(code, os.strerror(code), path)


@pytest.mark.parametrize("code", FULL)
@pytest.mark.parametrize("kind", [RunError, AnnotationError, HeatmapError])
def test_no_room_is_one_error_with_a_remedy(code, kind):
    error = unwritable(refusal(code, "out/.a.part"), "out/a", kind)
    assert type(error) is DiskFullError
    assert str(error).startswith(f"out/a: no room left on the disk ({os.strerror(code)}); free")
    assert ".part" not in str(error)


@pytest.mark.parametrize("kind", [RunError, AnnotationError, HeatmapError])
def test_another_refusal_is_of_the_kind_asked_for(kind):
    error = unwritable(refusal(errno.EACCES, "out/.a.part"), "out/a", kind)
    assert type(error) is kind
    assert str(error).startswith("out/a: cannot be written: Permission denied; check")
    assert ".part" not in str(error)


@pytest.mark.parametrize("code", FULL)
def test_a_picture_an_annotation_and_a_folder_say_the_same(tmp_path, monkeypatch, code):
    said = []

    def refuse(*_args, **_options):
        raise refusal(code, ".hidden")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(DiskFullError) as caught:
        canvas.save_png(tmp_path / "a", canvas.np.zeros((2, 2, 3), "uint8"))
    said.append(str(caught.value))
    with pytest.raises(DiskFullError) as caught, writing_whole(tmp_path / "a"):
        refuse()
    said.append(str(caught.value))
    with pytest.raises(DiskFullError) as caught, finished_folder(tmp_path, "a"):
        refuse()
    said.append(str(caught.value))
    assert said == [str(unwritable(refusal(code), tmp_path / "a"))] * 3


@pytest.mark.parametrize("kind", [DiskFullError, AnnotationError])
def test_a_file_is_named_as_it_would_have_been_called(tmp_path: Path, kind):
    with pytest.raises(kind) as caught, finished_folder(tmp_path, "case") as folder:
        raise kind(f"{folder / 'a.geojson'}: cannot be written")
    assert str(caught.value) == f"{tmp_path / 'case' / 'a.geojson'}: cannot be written"
    assert not list(tmp_path.iterdir())


def test_errors_of_wsiseg_pass_as_they_are(tmp_path):
    own = DiskFullError("x: no room")
    with pytest.raises(WsisegError) as caught, writing(tmp_path / "a"):
        raise own
    assert caught.value is own
