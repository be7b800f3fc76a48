"""Whether QuPath opens a GeoJSON file, and sees what it says.

The file is read by QuPath's own rules, and each QuPath's result is foretold: it raises and loads
nothing, or loads so many objects of these types and classes, with this area and these holes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wsiseg.annotations._check import FileCheck
from wsiseg.annotations._documents import open_documents
from wsiseg.annotations._findings import Finding, LoadedObjects
from wsiseg.annotations._rules import Reader

__all__ = ["QUPATH_VERSIONS", "Finding", "LoadedObjects", "VerifyReport", "verify_geojson"]

Verdict = Literal["clean", "warning", "error"]

QUPATH_VERSIONS: Mapping[str, Reader] = {
    "0.4": "0.4",
    "0.5": "0.5",
    "0.6": "0.6",
    "0.7": "0.6",
    "0.8-dev": "0.6",
}
"""QuPath version -> the reader it has. 0.4 is for information: it does not count in the verdict."""

MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The verdict on a file, with its reasons."""

    path: Path
    verdict: Verdict
    findings: tuple[Finding, ...]
    """One per rule broken, in the order of their first place."""

    loads: Mapping[str, LoadedObjects]
    """QuPath version -> what it loads."""

    @property
    def first(self) -> Finding | None:
        """The first finding that is as bad as the verdict."""
        return next((f for f in self.findings if f.severity == self.verdict), None)

    @property
    def counts(self) -> dict[str, int]:
        """Code -> how often."""
        return {finding.code: finding.count for finding in self.findings}

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as values fit for JSON."""
        return {
            "path": str(self.path),
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "loads": {version: asdict(load) for version, load in self.loads.items()},
        }

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.verdict}"]
        by_load: dict[str, list[str]] = {}
        for version, load in self.loads.items():
            by_load.setdefault(_describe(load), []).append(version)
        lines += [f"  QuPath {', '.join(names)}: {text}" for text, names in by_load.items()]
        worst_first = sorted(
            self.findings, key=lambda f: ("error", "warning", "note").index(f.severity)
        )
        return "\n".join([*lines, *(f"  {finding}" for finding in worst_first)])


def verify_geojson(path: Path | str, *, max_bytes: int = MAX_BYTES) -> VerifyReport:
    """Foretell what each QuPath from 0.4 makes of a GeoJSON file.

    Parameters
    ----------
    path
        `.geojson`, `.json`, either with `.gz`, or `.zip`; any other ending is an error, as QuPath
        reads no object from it.
    max_bytes
        Bytes the file may have, unpacked.

    Returns
    -------
    VerifyReport
        `error`: some QuPath from 0.5 raises, so that nothing is loaded, or finds no object, or
        loads an empty or invalid outline. `warning`: it alters, doubles or ignores something.
        `clean`: it loads what the file says.

    Raises
    ------
    AnnotationError
        If there is no such file, or it cannot be read.
    """
    path = Path(path)
    check = FileCheck()
    for document in open_documents(path, max_bytes=max_bytes):
        check.add(document)
    check.finish()
    findings = check.findings.result()
    severities = {finding.severity for finding in findings}
    verdict: Verdict = "clean"
    if severities & {"error", "warning"}:
        verdict = "error" if "error" in severities else "warning"
    results = {reader: load.result(check.colors) for reader, load in check.loads.items()}
    loads = {version: results[reader] for version, reader in QUPATH_VERSIONS.items()}
    return VerifyReport(path, verdict, findings, loads)


def _describe(load: LoadedObjects) -> str:
    if load.raises is not None:
        return f"nothing, refused ({load.raises})"
    types = ", ".join(
        f"{count} {name}{'s' if count != 1 else ''}" for name, count in sorted(load.types.items())
    )
    faults = {"empty": load.empty, "invalid": load.invalid, "doubled ids": load.duplicate_ids}
    return "; ".join(
        [types or "no object", *(f"{count} {name}" for name, count in faults.items() if count)]
    )
