"""Which models there are, and where: bundled ones, those the user added, and any folder."""

import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from wsiseg.errors import ModelError
from wsiseg.model.cache import user_models
from wsiseg.model.card import CARD_FILE, ModelCard
from wsiseg.model.describe import describe_card

__all__ = ["ModelEntry", "describe", "find_model", "list_models"]

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "bundled" / "models"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be named."""

    name: str
    version: str
    classes: tuple[str, ...]
    path: Path
    origin: Literal["bundled", "user"]

    problem: str = ""
    """Why the card cannot be read; empty where it can."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `models list --json` prints."""
        return {
            "name": self.name,
            "version": self.version,
            "classes": list(self.classes),
            "path": str(self.path),
            "origin": self.origin,
            "problem": self.problem,
        }


@cache
def _say_which(name: str, root: Path) -> None:
    """Say once that a name is taken for the model of that name, not for a folder here."""
    kind = "bundled" if root == BUNDLED else "added"
    log.warning("%s: the %s model of that name; for the folder here say ./%s", name, kind, name)


def list_models() -> tuple[ModelEntry, ...]:
    """Return the models that can be named, by name; one whose card is broken says so."""
    return tuple(sorted(_entries(), key=lambda entry: entry.name))


def find_model(name_or_path: str | Path) -> Path:
    """Return the folder of a model package.

    Parameters
    ----------
    name_or_path
        A name is looked for among bundled models, then among those the user added, then as a
        folder. A `Path`, or text with a separator, is a folder.

    Raises
    ------
    ModelError
        If there is none; names those known, and the closest ones first.
    """
    text = str(name_or_path)
    is_name = isinstance(name_or_path, str) and Path(text).name == text and text not in {".", ".."}
    if is_name:
        for root in (BUNDLED, user_models()):
            if (root / text / CARD_FILE).is_file():
                if Path(text, CARD_FILE).is_file():
                    _say_which(text, root)
                return root / text
    folder = Path(name_or_path).expanduser()
    if folder.name == CARD_FILE and folder.is_file():
        folder = folder.parent
    if (folder / CARD_FILE).is_file():
        return folder
    if folder.is_dir():
        raise ModelError(
            f"{folder}: no model package: needed a {CARD_FILE} in it; `wsiseg models add` converts "
            "other formats"
        )
    if not is_name:
        raise ModelError(
            f"{folder}: no such folder; name a model package, or one of `wsiseg models list`"
        )
    known = [entry.name for entry in list_models()]
    close = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelError(
        f"model {text!r} is unknown: {hint}known: {', '.join(known) or 'none'}; name one of them "
        "or the folder of a package"
    )


def describe(name_or_path: str | Path) -> str:
    """Return what the card of a model says, a line per subject; errors as `find_model`."""
    folder = find_model(name_or_path)
    said = describe_card(ModelCard.read(folder / CARD_FILE)) | {"path": str(folder)}
    width = max(map(len, said))
    return "\n".join(f"{subject:<{width}}  {text}" for subject, text in said.items())


def _entries() -> Iterator[ModelEntry]:
    seen: set[str] = set()
    roots: tuple[tuple[Path, Literal["bundled", "user"]], ...] = (
        (BUNDLED, "bundled"),
        (user_models(), "user"),
    )
    for root, origin in roots:
        for path in sorted(root.glob(f"*/{CARD_FILE}")):
            folder = path.parent
            if folder.name in seen or folder.name.startswith("."):
                continue
            seen.add(folder.name)
            try:
                card = ModelCard.read(path)
            except ModelError as error:
                yield ModelEntry(folder.name, "?", (), folder, origin, str(error))
            else:
                classes = tuple(c.name for c in card.classes)
                yield ModelEntry(folder.name, card.version, classes, folder, origin)
