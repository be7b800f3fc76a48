"""Blocks that wait in a file."""

import os
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from wsiseg.engine.block_store import ROOM_BYTES, BlockStore

Usage = namedtuple("Usage", "total used free")


def block(value):
    return np.full((4, 4, 3), value, np.uint8)


def test_blocks_put_twice_by_many_threads_stay_themselves(tmp_path):
    with closing(BlockStore(tmp_path)) as store, ThreadPoolExecutor(8) as pool:
        indices = [(i // 4,) for i in range(800)]
        list(pool.map(lambda index: store.put(index, block(index[0])), indices))
        for value in range(200):
            np.testing.assert_array_equal(store.get((value,)), block(value))


def test_a_block_written_in_part_is_not_kept(tmp_path, monkeypatch):
    write = os.pwrite
    with closing(BlockStore(tmp_path)) as store:
        store.put((0,), block(1))
        monkeypatch.setattr("os.pwrite", lambda file, data, at: write(file, data[:5], at))
        store.put((1,), block(2))
        monkeypatch.undo()
        store.put((2,), block(3))
        np.testing.assert_array_equal(store.get((0,)), block(1))
        assert store.get((1,)) is None
        assert store.get((2,)) is None


def test_results_come_first_where_the_disk_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2, 1, ROOM_BYTES - 1))
    with closing(BlockStore(tmp_path)) as store:
        store.put((0,), block(1))
        assert not store.holds((0,))
