"""The run on a scan that a `run.json` tells of."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from wsiseg.engine import Journal, Listener
from wsiseg.run.recorded import RecordedRun, Repeated, paces_of, require_same
from wsiseg.scans import segment_scan
from wsiseg.source import Volume
from wsiseg.source.volumes import open_recorded
from wsiseg.volume.regrid import on_grid_of

__all__ = ["ScanRun"]


class ScanRun(RecordedRun):
    """The run on a scan; see `RecordedRun`.

    Parameters
    ----------
    said, model
        See there.
    scan
        Where the scan is now, if not where it was: its first file, where each channel has one.
    """

    def __init__(
        self, said: Mapping[str, Any], scan: Path | str | None, model: Path | str | None
    ) -> None:
        super().__init__(said, scan, model)
        files: list[Mapping[str, Any]] = [said["scan"], *said["channels"]]
        self._files = [(self.place, files[0]), *((one["path"], one) for one in files[1:])]
        export = said["options"].get("export", {})
        self._probabilities = tuple(export.get("probabilities", ()))

    def repeat(self, out: Path, name: str, journal: Journal, listen: Listener) -> Repeated:
        """Do it again; return where the files are, and how each stage was driven."""
        with self._open() as scans:
            result = segment_scan(
                scans,
                self.model,
                options=self.run,
                probabilities=self._probabilities,
                paces=self.paces,
                journal=journal,
                listen=listen,
            )
            return result.write(out, name=name), paces_of(result.plan.stages)

    @contextmanager
    def _open(self) -> Iterator[list[Volume]]:
        """Open the scan's files, and refuse others; priors are brought to the scan's voxels."""
        with ExitStack() as stack:
            volumes: list[Volume] = []
            for path, said in self._files:
                volume = open_recorded(require_same(path, said, "scan"), said)
                stack.callback(volume.close)
                volumes.append(on_grid_of(volume, volumes[0]) if volumes else volume)
            yield volumes
