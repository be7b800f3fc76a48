"""From what files call things to class values."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiseg.annotations.drawing import counted
from wsiseg.errors import LabelError

__all__ = ["IGNORE", "MAX_CLASSES", "Naming"]

IGNORE = 255
"""Value of pixels about which nobody knows anything: not trained on, not scored."""

QUPATH_IGNORE = "Ignore*"
"""QuPath's class for what is not to be measured; ignored unless it is named otherwise."""

MAX_CLASSES = 254
"""One value is for `IGNORE`, one for values that a mask must not have."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Which names stand for which class; see `open_labels`.

    Raises
    ------
    LabelError
        If classes are missing, repeated or too many, or the other names contradict them.
    """

    classes: tuple[str, ...]
    mapping: Mapping[str, str]
    ignore: frozenset[str]
    within: frozenset[str]
    priority: tuple[str, ...]
    """Classes from lowest to highest."""

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        mapping: Mapping[str, str],
        ignore: Iterable[str],
        within: Iterable[str],
        priority: Sequence[str],
    ) -> "Naming":
        """Take the arguments of `open_labels`."""
        for what, names in (("classes", classes), ("ignore", ignore), ("within", within)):
            if isinstance(names, str):
                raise LabelError(f"{what} needs a list of names, found the text {names!r}")
        order = tuple(priority or classes)
        return cls(tuple(classes), dict(mapping), frozenset(ignore), frozenset(within), order)

    def __post_init__(self) -> None:
        classes = set(self.classes)
        if not 1 <= len(self.classes) <= MAX_CLASSES or len(classes) < len(self.classes):
            raise LabelError(
                f"labels need 1 to {MAX_CLASSES} different classes, the background first, found "
                f"{list(self.classes)}"
            )
        if unknown := set(self.mapping.values()) - classes:
            raise LabelError(
                f"mapping: names become {sorted(unknown)}, needed classes among "
                f"{list(self.classes)}; correct the mapping, or add the class"
            )
        if twice := self.ignore & (self.within | self.mapping.keys()):
            raise LabelError(
                f"ignore: {sorted(twice)} cannot be ignored and mapped or a region (within) at "
                "once; name each once"
            )
        if sorted(self.priority) != sorted(self.classes):
            raise LabelError(
                f"priority: needed each class once, lowest first, found {list(self.priority)}"
            )

    @property
    def order(self) -> tuple[int, ...]:
        """Class values from lowest to highest priority."""
        return tuple(self.classes.index(name) for name in self.priority)

    def value(self, *names: str) -> int | None:
        """Return the class value of something with these names, `IGNORE`, or `None`: none of it."""
        if self.ignore.intersection(names):
            return IGNORE
        if QUPATH_IGNORE in names and QUPATH_IGNORE not in {*self.mapping, *self.classes}:
            return IGNORE
        known = [self.mapping.get(name, name) for name in names]
        return next((self.classes.index(name) for name in known if name in self.classes), None)

    def is_region(self, *names: str) -> bool:
        """Tell whether something with these names is a region that is annotated exhaustively."""
        return bool(self.within.intersection(names))

    def check(self, path: Path | str, names: Iterable[str]) -> None:
        """Look whether all names of objects are known.

        Raises
        ------
        LabelError
            If not; it names them and the remedy.
        """
        unknown = {
            name: count
            for name, count in Counter(names).items()
            if self.value(name) is None and not self.is_region(name)
        }
        if unknown:
            raise self.unknown(path, counted(unknown), next(iter(unknown)))

    def unknown(self, path: Path | str, found: str, example: str) -> LabelError:
        """Return the error for names or values that stand for no class."""
        name, target, paper = map(_quoted, (example, self.classes[-1], self.classes[0]))
        return LabelError(
            f"{path}: needed the classes {list(self.classes)}, found {found}; map them in [labels] "
            f"of the data set, such as mapping = {{{name} = {target}}} ({paper} for what is none "
            f"of them), or leave their area out with ignore = [{name}]; in Python "
            f"mapping={{{name}: {target}}} and ignore=[{name}]"
        )


def _quoted(name: str) -> str:
    """Return a name as TOML and Python have it."""
    return json.dumps(name, ensure_ascii=False)
