"""What an importer gives: a card without hashes, and the files it names."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Imported", "Selection"]


@dataclass(frozen=True)
class Imported:
    """A model read from files of another program."""

    content: dict[str, Any]
    """The card, without hashes."""

    files: dict[str, bytes]
    """Weights by the names that the card gives them."""

    extra: dict[str, bytes] = field(default_factory=dict)
    """Further files, such as a licence."""


@dataclass(frozen=True)
class Selection:
    """What to take of a folder that has more than one of it (nnU-Net)."""

    configuration: str | None = None
    """`3d_fullres`, say; needed where the folder holds several."""

    folds: tuple[str, ...] = ()
    """`0` to `4`, or `all`; default: all that are there."""

    checkpoint: str = "final"
    """`final` or `best`."""
