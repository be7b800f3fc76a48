"""The journal: what is whole is believed, and nothing else; a folder has one owner."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine import claim
from wsiseg.engine.claim import OWNER, Claim, Owner
from wsiseg.engine.journal import FILE, Journal, StageEntry
from wsiseg.engine.kept import KeptRows
from wsiseg.errors import DiskFullError, HeatmapError, LeaseError
from wsiseg.geometry import Box
from wsiseg.stitch import ArraySink

ENTRY = StageEntry("patches", {"slide": "a"}, {"batch size": 4})
WIDTH = 5
CODES = np.random.default_rng(0).integers(0, 256, (99, WIDTH), dtype=np.uint8)


def rows(top, bottom):
    """Return a block of codes and its box; what a row holds depends on its number alone."""
    return Box((top, 0), (bottom, WIDTH)), CODES[top:bottom]


def fill(folder, *spans, entry=ENTRY, part="codes"):
    with Journal(folder) as journal:
        log = journal.begin(entry)
        for span in spans:
            log.add(part, *rows(*span))


def found(folder, entry=ENTRY):
    """Return the rows of each block that is believed."""
    with Journal(folder) as journal:
        log = journal.begin(entry)
        for block in log.blocks:
            box, codes = rows(block.box.start[0], block.box.stop[0])
            assert block.box == box
            assert np.array_equal(log.load(block), codes)
        return [(block.box.start[0], block.box.stop[0]) for block in log.blocks]


def data_of(folder):
    (path,) = folder.glob("*.blocks")
    return path


def test_blocks_come_back_as_they_were(tmp_path):
    fill(tmp_path, (0, 3), (3, 4))
    fill(tmp_path, (4, 9))
    assert found(tmp_path) == [(0, 3), (3, 4), (4, 9)]


def test_floats_are_kept_bit_for_bit(tmp_path):
    values = np.array([[np.nan, -0.0], [np.inf, 1e-45]], np.float32)
    with Journal(tmp_path) as journal:
        log = journal.begin(ENTRY)
        log.add("vectors", Box((0, 0), (1, 2)), values)
    with Journal(tmp_path) as journal:
        log = journal.begin(ENTRY)
        assert log.load(log.blocks[0]).tobytes() == values.tobytes()


def test_a_journal_cut_anywhere_keeps_what_is_whole(tmp_path):
    """As a kill in the middle of a line, or a disk that lost its end."""
    fill(tmp_path, (0, 3), (3, 4), (4, 9))
    content = (tmp_path / FILE).read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(0, len(content) + 1, 7):
        (tmp_path / FILE).write_bytes(content[:size])
        whole = sum(end - 1 <= size for end in ends)  # without its line end a line is whole
        with Journal(tmp_path) as journal:
            entry = journal.find("patches")
            assert (entry is not None) == (whole > 0)
            if entry is not None:
                log = journal.begin(ENTRY)
                assert len(log.blocks) == whole - 1
                log.add("codes", *rows(90, 91))
        if whole:
            assert found(tmp_path)[-1] == (90, 91)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_costs_at_most_its_line_or_block(tmp_path_factory, place, change):
    folder = tmp_path_factory.mktemp("journal")
    spans = [(0, 3), (3, 4), (4, 9)]
    fill(folder, *spans)
    files = [folder / FILE, data_of(folder)]
    path = files[place % 2]
    content = bytearray(path.read_bytes())
    content[place // 2 % len(content)] ^= change
    path.write_bytes(content)
    with Journal(folder) as journal:
        if journal.find("patches") is None:
            return  # the line of the stage: nothing is believed
        blocks = journal.begin(ENTRY).blocks
    left = [(block.box.start[0], block.box.stop[0]) for block in blocks]
    assert len(left) >= len(spans) - 2  # a line end joins two lines
    assert set(left) <= set(spans)
    assert len(left) < len(spans) or content[-1:] != b"\n"


def test_content_that_is_missing_is_not_believed(tmp_path):
    fill(tmp_path, (0, 3), (3, 4), (4, 9))
    path = data_of(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    assert found(tmp_path) == [(0, 3), (3, 4)]
    path.unlink()
    assert found(tmp_path) == []


def test_content_that_is_changed_while_in_use_is_an_error(tmp_path):
    fill(tmp_path, (0, 3))
    with Journal(tmp_path) as journal:
        log = journal.begin(ENTRY)
        data_of(tmp_path).write_bytes(b"x" * 999)
        with pytest.raises(HeatmapError, match="changed by somebody else"):
            log.load(log.blocks[0])


def test_other_work_begins_with_nothing_and_says_what_changed(tmp_path):
    fill(tmp_path, (0, 3))
    other = replace(ENTRY, what={"slide": "b"}, how={"batch size": 8})
    with Journal(tmp_path) as journal:
        assert other.changed_since(journal.find("patches")) == ("slide", "batch size")
        assert journal.begin(other).blocks == ()
        assert journal.is_empty
    assert len(list(tmp_path.glob("*.blocks"))) == 1
    assert found(tmp_path, ENTRY) == []  # and back: the first blocks are gone


def test_stages_do_not_share_blocks(tmp_path):
    fill(tmp_path, (0, 3))
    fill(tmp_path, (0, 1), entry=replace(ENTRY, stage="refine"))
    assert found(tmp_path) == [(0, 3)]
    fill(tmp_path, (0, 2), entry=replace(ENTRY, what={}))
    assert found(tmp_path, replace(ENTRY, stage="refine")) == [(0, 1)]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not ours\n", b'{"stage": "patches"}\n', b"\0"])
def test_a_foreign_journal_is_nothing(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert found(tmp_path) == []
    fill(tmp_path, (0, 3))
    assert found(tmp_path) == [(0, 3)]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    with Journal(tmp_path) as journal:
        log = journal.begin(ENTRY)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.write", full)
        with pytest.raises(DiskFullError, match="no room left"):
            log.add("codes", *rows(0, 1))


class Checked(ArraySink):
    """Refuses rows out of order, as the writers of stores do."""

    row = 0

    def write(self, box, codes):
        assert box.start[0] == self.row
        self.row = box.stop[0]
        super().write(box, codes)


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(1, 6)), max_size=12),
    st.lists(st.tuples(st.integers(0, 19), st.integers(1, 6)), max_size=12),
    st.integers(1, 7),
)
def test_finished_and_new_rows_make_one_array(tmp_path_factory, codes, labels, step):
    """Whatever is finished of two arrays, in whatever order and however often."""
    folder, height = tmp_path_factory.mktemp("rows"), 20
    spans = {"codes": codes, "labels": labels}
    for part, own in spans.items():
        fill(folder, *((top, min(top + n, height)) for top, n in own), part=part)
    _, whole = rows(0, height)
    with Journal(folder) as journal:
        kept = KeptRows(journal.begin(ENTRY), list(spans), height)
        missing = kept.missing((0, WIDTH))
        sinks = {part: Checked((height, WIDTH)) for part in spans}
        merged = {part: kept.sink(part, sink) for part, sink in sinks.items()}
        for top in range(0, height, step):
            bottom = min(top + step, height)
            fresh = np.where(missing[top:bottom, np.newaxis], whole[top:bottom], 7)
            for part in spans:
                merged[part].write(Box((top, 0), (bottom, WIDTH)), fresh.astype(np.uint8))
        for part in spans:
            assert np.array_equal(merged[part].finish(), whole)
            assert sinks[part].row == height
    with Journal(folder) as journal:
        kept = KeptRows(journal.begin(ENTRY), list(spans), height)
        assert not kept.missing((0, WIDTH)).any()


def test_rows_are_finished_when_all_arrays_have_them(tmp_path):
    fill(tmp_path, (0, 8), part="codes")
    fill(tmp_path, (0, 5), part="labels")
    with Journal(tmp_path) as journal:
        kept = KeptRows(journal.begin(ENTRY), ("codes", "labels"), 10)
        assert np.flatnonzero(kept.missing((0, WIDTH))).tolist() == [5, 6, 7, 8, 9]
        assert kept.missing((WIDTH, 2 * WIDTH)).all()


def test_a_folder_has_one_owner(tmp_path):
    with (
        Claim(tmp_path, activity=FILE),
        pytest.raises(LeaseError, match=rf"process {os.getpid()} "),
    ):
        Claim(tmp_path, activity=FILE)
    Claim(tmp_path, activity=FILE).close()
    assert (tmp_path / OWNER).read_bytes() == b""


def test_the_owner_of_a_folder_may_be_killed(tmp_path):
    code = (
        "import os, sys; from wsiseg.engine.journal import Journal\n"
        f"journal = Journal({str(tmp_path)!r}); print('there', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "there\n"
        with pytest.raises(LeaseError, match=rf"process {process.pid} on"):
            Journal(tmp_path)
        process.kill()
        process.wait()
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == process.pid
        Journal(tmp_path).close()


ME = Owner.this_process()


@pytest.mark.parametrize(
    ("owner", "lately", "lives"),
    [
        (ME, False, True),
        (replace(ME, started="1"), True, False),  # its number was given to another process
        (replace(ME, pid=2**22 + 1), True, False),
        (replace(ME, boot="another"), True, False),  # the machine was started again
        (replace(ME, host="another", boot="another"), True, True),
        (replace(ME, host="another", boot="another"), False, False),
        (replace(ME, host="another", space=1), True, True),  # a container beside this one
    ],
)
def test_without_locks_the_record_decides(tmp_path, monkeypatch, owner, lately, lives):
    monkeypatch.setattr(claim, "fcntl", None)
    monkeypatch.setattr(claim, "STALE_S", 50.0 if lately else -50.0)
    (tmp_path / FILE).touch()
    (tmp_path / OWNER).write_text(json.dumps(asdict(owner)))
    if lives:
        with pytest.raises(LeaseError, match="works there"):
            Claim(tmp_path, activity=FILE)
    else:
        Claim(tmp_path, activity=FILE).close()
    if owner.host != ME.host:  # a lease on the slide says that nobody is there
        Claim(tmp_path, activity=FILE, guarded=True).close()
