"""A reader of slides that makes the process crash, as a native decoder may; for tests."""

import ctypes
import os

from wsiseg.errors import UnsupportedFormatError
from wsiseg.source.array import ArraySource
from wsiseg.testing.slides import tissue_disc

ENTRY_POINTS = "[wsiseg.sources]\ncrashing = crashing:open_source\n"


class _Crashing(ArraySource):
    def read(self, level, box):
        ctypes.string_at(0)
        raise AssertionError


def open_source(path):
    content = path.read_bytes()
    if content.startswith(b"abort at opening"):
        os.abort()
    if not content.startswith(b"crash at reading"):
        raise UnsupportedFormatError(f"{path.name}: another format")
    return _Crashing(tissue_disc((60, 80))[0])
