"""What is found in a file: broken rules with their first place, and the objects QuPath loads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wsiseg.annotations._attributes import Attributes, Rgb
from wsiseg.annotations._judge import Fate, ellipse
from wsiseg.annotations._rules import RULES, Severity

__all__ = ["Finding", "Findings", "Load", "LoadedObjects"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that the file breaks, how often, and where first."""

    code: str
    severity: Severity
    count: int
    what: str
    remedy: str
    detail: str = ""
    """The value found at the first place."""

    entry: str | None = None
    """Name inside a ZIP file."""

    index: int | None = None
    """Feature, counted from 0; `None` where the file itself is meant."""

    id: str | None = None
    """The feature's id as written."""

    def __str__(self) -> str:
        place = [] if self.entry is None else [self.entry]
        if self.index is not None:
            place.append(f"feature {self.index}" + (f" (id {self.id})" if self.id else ""))
        where = f"{', '.join(place)}: " if place else ""
        detail = f" ({self.detail})" if self.detail else ""
        times = f" [{self.count} times]" if self.count > 1 else ""
        return f"{self.severity}: {where}{self.what}{detail}; {self.remedy}{times} [{self.code}]"


@dataclass(frozen=True, slots=True)
class LoadedObjects:
    """What one QuPath version makes of the file."""

    raises: str | None = None
    """Code of the first rule it raises over; then nothing is loaded."""

    objects: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    """Class name -> objects; `(none)` for unclassified ones."""

    colors: Mapping[str, Rgb | None] = field(default_factory=dict)
    """Class name -> RGB; `None` where QuPath picks one."""

    area: float = 0.0
    """Square pixels, overlaps counted twice."""

    holes: int = 0
    empty: int = 0
    invalid: int = 0
    duplicate_ids: int = 0
    nan_measurements: int = 0


class Load:
    """Objects as one reader loads them, being counted."""

    def __init__(self) -> None:
        self.raises: str | None = None
        self.types: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.area = 0.0
        self.holes = self.empty = self.invalid = self.nan_measurements = 0

    def add(self, objects: Sequence[tuple[Attributes, Fate]]) -> None:
        """Count top-level objects; one call for many is much faster."""
        self.types.update([item.object_type for item, _ in objects])
        self.classes.update([_class_shown(item) for item, _ in objects])
        for item, fate in objects:
            if item.object_type == "root":
                continue
            loaded = ellipse(fate) if item.object_type == "tmaCore" else fate
            self.area += loaded.area
            self.holes += loaded.holes
            self.empty += loaded.is_empty
            self.invalid += loaded.is_invalid
            self.nan_measurements += item.nan_measurements
        ids = [item.id for item, _ in objects if item.object_type != "root"]
        self.ids.update([id for id in ids if id is not None])

    def merge(self, other: "Load") -> None:
        """Add what another file of the same ZIP file gives."""
        for name in ("types", "classes", "ids"):
            getattr(self, name).update(getattr(other, name))
        for name in ("area", "holes", "empty", "invalid", "nan_measurements"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def result(self, colors: Mapping[str, Rgb | None]) -> LoadedObjects:
        """Return the counts."""
        if self.raises is not None:
            return LoadedObjects(raises=self.raises)
        return LoadedObjects(
            objects=self.types.total(),
            types=dict(self.types),
            classes=dict(self.classes),
            colors={name: colors[name] for name in self.classes if name in colors},
            area=self.area,
            holes=self.holes,
            empty=self.empty,
            invalid=self.invalid,
            duplicate_ids=self.ids.total() - len(self.ids),
            nan_measurements=self.nan_measurements,
        )


def _class_shown(attributes: Attributes) -> str:
    if attributes.object_type == "root":  # QuPath's root is the whole image
        return "Image"
    return attributes.class_name or "(none)"


class Findings:
    """The first place and the count of each broken rule."""

    def __init__(self) -> None:
        self._first: dict[str, Finding] = {}
        self._counts: Counter[str] = Counter()

    def add(
        self,
        code: str,
        detail: str = "",
        *,
        entry: str | None = None,
        index: int | None = None,
        id: str | None = None,
    ) -> None:
        """Count one more place where a rule is broken."""
        self._counts[code] += 1
        if code not in self._first:
            rule = RULES[code]
            self._first[code] = Finding(
                code, rule.severity, 1, rule.what, rule.remedy, detail, entry, index, id
            )

    def merge(self, other: "Findings", *, fatal: bool = True) -> None:
        """Take over what another file gave; without `fatal` only what makes no QuPath raise."""
        for code, finding in other._first.items():
            if fatal or not RULES[code].raises:
                self._first.setdefault(code, finding)
                self._counts[code] += other._counts[code]

    def result(self) -> tuple[Finding, ...]:
        """Return one finding per rule."""
        return tuple(replace(f, count=self._counts[code]) for code, f in self._first.items())
