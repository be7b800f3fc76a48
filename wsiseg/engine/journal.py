"""What is finished of a slide, kept in its working folder, so that a killed run can go on.

The journal grows by one line per finished block. Each line begins with a checksum of its own, so
that a torn, changed or foreign one is as if it were not there. A line of a stage says what its
blocks depend on; a line of a block says where in the stage's file its content lies, and its hash.
Content is written before its line, nothing is changed afterwards, and no content is believed that
has another hash: after a kill the last block may be missing, after a power cut some more.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.engine.claim import Claim
from wsiseg.errors import HeatmapError, WsisegError, unwritable
from wsiseg.geometry import Box
from wsiseg.source import DamagedBlock, Ledger, State

__all__ = ["Block", "Journal", "StageEntry", "StageLog"]

FILE = "wsiseg-journal.jsonl"
SUFFIX = ".blocks"

FORMAT = b"wsiseg journal 1"
"""Goes into the checksum of each line, so that those of other formats do not count."""

SORTED = orjson.OPT_SORT_KEYS

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class StageEntry:
    """What the blocks of a stage depend on."""

    stage: str
    what: Mapping[str, Any]
    """What is computed, plain values by names that people understand: slide, network, tiles."""

    how: Mapping[str, Any]
    """What may change the last bits of it: batch size, library, processor."""

    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the next run wants to know, and blocks do not depend on."""

    @property
    def id(self) -> str:
        """Name of this very work: a hash of what and how."""
        text = orjson.dumps([self.stage, self.what, self.how], option=SORTED)
        return hashlib.sha256(text).hexdigest()[:16]

    @classmethod
    def plain(
        cls, stage: str, what: Mapping[str, Any], how: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> "StageEntry":
        """Return an entry that is equal to itself written and read again."""
        return cls(stage, *(orjson.loads(orjson.dumps(part)) for part in (what, how, notes)))

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "StageEntry":
        """Return the entry of a line."""
        return cls(line["stage"], line["what"], line["how"], line["notes"])

    def changed_since(self, other: "StageEntry") -> tuple[str, ...]:
        """Return the names of what was different there."""
        mine, theirs = {**self.what, **self.how}, {**other.what, **other.how}
        return tuple(name for name in mine | theirs if mine.get(name) != theirs.get(name))


@dataclass(frozen=True, slots=True)
class Block:
    """Finished rows of one array of a stage, in the stage's file."""

    part: str
    """Which array: a stage may give several."""

    box: Box
    """Pixels of the walk; see `Column`."""

    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int
    digest: str

    def to_dict(self, of: str) -> dict[str, Any]:
        """Return the content of a line; `of` is the id of the stage's entry."""
        box = [self.box.start, self.box.stop]
        place = [self.offset, self.nbytes]
        return {"of": of, "part": self.part, "box": box, "at": place, "hash": self.digest} | {
            "array": [self.dtype, *self.shape]
        }

    @classmethod
    def parse(cls, line: Mapping[str, Any]) -> "Block":
        """Return the block of a line."""
        (start, stop), (offset, nbytes), (dtype, *shape) = line["box"], line["at"], line["array"]
        box = Box(tuple(start), tuple(stop))
        return cls(line["part"], box, tuple(shape), dtype, offset, nbytes, line["hash"])


class Journal:
    """The journal of a working folder, claimed for this process; a context manager.

    Parameters
    ----------
    folder
        Made if need be.
    guarded
        See `Claim`.

    Raises
    ------
    LeaseError
        If another process works there.
    RunError, DiskFullError
        Here or in any other method, if the folder cannot be written.
    """

    def __init__(self, folder: Path | str, *, guarded: bool = False) -> None:
        self.folder = Path(folder)
        self._path = self.folder / FILE
        self._entries: dict[str, StageEntry] = {}
        self._blocks: dict[str, list[Block]] = {}
        self._damage: dict[str, list[Mapping[str, Any]]] = {}
        self._lock = threading.Lock()
        self._logs: list[StageLog] = []
        self._file = -1
        with _disk(self.folder):
            self._claim = Claim(self.folder, activity=FILE, guarded=guarded)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; what is finished stays there."""
        for log in self._logs:
            log.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._claim.close()

    @property
    def is_empty(self) -> bool:
        """Whether no block is finished, so that nothing would be lost without the folder."""
        return not any(self._blocks.get(entry.id) for entry in self._entries.values())

    def find(self, stage: str) -> StageEntry | None:
        """Return what the blocks that are there of a stage depend on; `None` for none."""
        return self._entries.get(stage)

    def begin(self, entry: StageEntry) -> "StageLog":
        """Return the log of a stage: with its blocks if they are of this very work, else empty."""
        name = f"{entry.stage}-{entry.id}{SUFFIX}"
        known = self._entries.get(entry.stage)
        with _disk(self.folder):
            if known is None or known.id != entry.id:
                for old in self.folder.glob(f"{entry.stage}-*{SUFFIX}"):
                    old.unlink()
                line = {"what": entry.what, "how": entry.how, "notes": entry.notes}
                self._enter({"stage": entry.stage, **line})
            blocks = tuple(self._blocks.get(entry.id, ()))
            log = StageLog(
                self.folder / name,
                blocks,
                lambda block: self._enter(block.to_dict(entry.id)),
                damage=tuple(self._damage.get(entry.id, ())),
                enter_damage=lambda one: self._enter({"of": entry.id, "damage": one}),
            )
        self._logs.append(log)
        return log

    def adopt(self, folder: Path, *, instead: bool = False) -> None:
        """Take over what is finished in the journal of another folder, where nobody works any more.

        Parameters
        ----------
        folder
            Nothing need be there.
        instead
            Of a stage that is known here as other work, drop what is here; otherwise that stays,
            and nothing is taken.
        """
        try:
            content = (folder / FILE).read_bytes()
        except FileNotFoundError:
            return
        lines = [line for line in map(_checked, content.split(b"\n")) if line is not None]
        entries = {line["stage"]: StageEntry.of(line) for line in lines if "stage" in line}
        logs: dict[str, StageLog] = {}
        have: dict[str, set[tuple[str, Box]]] = {}
        for entry in entries.values():  # the last of each stage: what came before was given up
            known = self._entries.get(entry.stage)
            if known is None or known.id == entry.id or instead:
                log = logs[entry.id] = self.begin(entry)
                have[entry.id] = {(block.part, block.box) for block in log.blocks}
        for line in lines:
            if "stage" in line or line["of"] not in logs:
                continue
            if "damage" in line:
                if line["damage"] not in self._damage[line["of"]]:
                    self._enter(line)
            else:
                log, block = logs[line["of"]], Block.parse(line)
                if (block.part, block.box) not in have[line["of"]]:
                    log.copy(block, folder / log.path.name)
        for log in logs.values():
            log.close()

    def _open(self) -> None:
        with _disk(self.folder):
            content = self._path.read_bytes() if self._path.exists() else b""
            lines = [line for line in map(_checked, content.split(b"\n")) if line is not None]
            if content and not lines:
                self._path.unlink()  # of another format, or nothing of it is whole
                content = b""
            for line in lines:
                self._take(line)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            if content and not content.endswith(b"\n"):
                _write_all(self._file, b"\n")  # after a torn line

    def _enter(self, line: Mapping[str, Any]) -> None:
        text = orjson.dumps(line)
        with self._lock, _disk(self.folder):  # readers find damage while others write blocks
            _write_all(self._file, _check(text) + b" " + text + b"\n")
            self._take(orjson.loads(text))

    def _take(self, line: Mapping[str, Any]) -> None:
        if "stage" in line:
            entry = StageEntry.of(line)
            self._entries[entry.stage] = entry
            self._blocks[entry.id], self._damage[entry.id] = [], []
        elif "damage" in line:
            self._damage.setdefault(line["of"], []).append(line["damage"])
        else:
            self._blocks.setdefault(line["of"], []).append(Block.parse(line))


class StageLog:
    """The finished blocks of one stage in a file.

    Parameters
    ----------
    path
        The file; made if need be.
    blocks
        Those in the journal, in their order. Which of them the file still holds is looked at here.
    enter
        Called with each new block once its content is written.
    damage
        Damaged blocks of the slide that the stage met before.
    enter_damage
        Called with each new one.

    Attributes
    ----------
    blocks
        Those that were there and whole when the log was opened.
    """

    def __init__(
        self,
        path: Path,
        blocks: tuple[Block, ...],
        enter: Callable[[Block], None],
        *,
        damage: Sequence[Mapping[str, Any]] = (),
        enter_damage: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._enter = enter
        self._damage, self._enter_damage = damage, enter_damage
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.blocks = tuple(block for block in blocks if self._content(block) is not None)
        self.damaged = len(blocks) - len(self.blocks)
        """Blocks whose content is missing or changed."""

    def follow(self, ledger: Ledger) -> None:
        """Tell a slide's ledger what is known of its damage, and keep what it learns from now on.

        A damaged block is on record before any row that it reaches.
        """
        for one in self._damage:
            level, row, column, state, source_level, reason = one["block"]
            ledger.add(
                level,
                (row, column),
                state=State(state),
                source_level=source_level,
                reason=reason,
            )
        known = {tuple(one["block"][:3]) for one in self._damage}

        def enter(block: DamagedBlock) -> None:
            place = (block.level, *block.index)
            if place not in known:
                entry = [*place, int(block.state), block.source_level, block.reason]
                self._enter_damage({"block": entry})

        ledger.follow(enter)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def add(self, part: str, box: Box, array: Array) -> None:
        """Keep a finished block.

        Parameters
        ----------
        part
            Which array of the stage.
        box
            Pixels of the walk.
        array
            uint8 is compressed, anything else is kept as it is.
        """
        self._append(part, box, array.shape, array.dtype.str, _packed(array))

    def copy(self, block: Block, path: Path) -> None:
        """Keep a block of another log of the same work, if it is whole.

        Parameters
        ----------
        block
            As its journal has it.
        path
            The file of the other log.
        """
        try:
            with path.open("rb") as file:
                file.seek(block.offset)
                content = file.read(block.nbytes)
        except FileNotFoundError:
            return
        if _digest(content) == block.digest:
            self._append(block.part, block.box, block.shape, block.dtype, content)

    def _append(
        self, part: str, box: Box, shape: tuple[int, ...], dtype: str, content: bytes
    ) -> None:
        with _disk(self.path):
            offset = os.lseek(self._file, 0, os.SEEK_END)
            _write_all(self._file, content)
        self._enter(Block(part, box, shape, dtype, offset, len(content), _digest(content)))

    def load(self, block: Block) -> Array:
        """Return the content of a block.

        Raises
        ------
        HeatmapError
            If it is no longer what it was when the log was opened.
        """
        content = self._content(block)
        if content is None:
            raise HeatmapError(f"{self.path}: was changed by somebody else; run again")
        return _unpacked(content, np.dtype(block.dtype), block.shape)

    def _content(self, block: Block) -> bytes | None:
        with _disk(self.path):
            content = os.pread(self._file, block.nbytes, block.offset)
        return content if _digest(content) == block.digest else None


def _packed(array: Array) -> bytes:
    data = np.ascontiguousarray(array).tobytes()
    if array.dtype != np.uint8:
        return data
    import imagecodecs

    return bytes(
        imagecodecs.blosc_encode(
            data, level=1, compressor="lz4", shuffle=2, typesize=1, numthreads=1
        )
    )


def _unpacked(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype == np.uint8:
        import imagecodecs

        content = bytes(imagecodecs.blosc_decode(content))
    return np.frombuffer(content, dtype).reshape(shape)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8, key=FORMAT).hexdigest().encode()


def _checked(line: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the content of a line; `None` if it is not whole."""
    check, _, text = line.partition(b" ")
    return orjson.loads(text) if check == _check(text) else None


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Say what it means where the system refuses to write."""
    try:
        yield
    except WsisegError:
        raise
    except OSError as error:
        raise unwritable(error, path) from error
