"""Features of a slide: one vector per tile of tissue, as multiple-instance learning takes them.

The flow of `wsiseg.pipeline` up to the network: the same reading, tissue, batches and threads.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg import __version__
from wsiseg.engine import (
    Journal,
    Listener,
    Pinned,
    Plan,
    Publishing,
    Resume,
    StageReport,
    StageSetup,
    connect,
    fingerprint,
    finished_folder,
    ignore,
    lay_out,
    link_tree,
    make_plan,
    run_record,
    run_stage,
    select_tiles,
    share_levels,
    summary_head,
    temporary_folder,
)
from wsiseg.errors import UsageError
from wsiseg.machine import release_memory, set_allocator
from wsiseg.model import Model, load_for_run, require_task
from wsiseg.options import EmbedOptions
from wsiseg.source import Pyramid, as_pyramid
from wsiseg.stitch import VectorStore, VectorWriter
from wsiseg.tissue import TissueMask, find_tissue

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Embeddings", "embed", "require_parquet"]

DEFAULTS = EmbedOptions()
NOTHING_PINNED = Pinned()
VECTORS = "vectors"
"""Name of the array of the stage, for what is kept."""


@dataclass(frozen=True, repr=False)
class Embeddings:
    """The vectors of one slide, on disk."""

    slide: Pyramid
    model: Model
    options: EmbedOptions
    plan: Plan
    tissue: TissueMask
    store: VectorStore
    """`vectors`, `coordinates` and `tissue`: Zarr arrays with a row per tile, row by row of the
    grid of tiles."""

    report: StageReport
    seconds: float

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return (
            f"<Embeddings {self.slide.name}: {len(self)} vectors of {self.store.length}, "
            f"{self.model.card.name}>"
        )

    def summary(self) -> dict[str, Any]:
        """Return one row of `summary.csv`."""
        (stage,) = self.plan.stages
        return summary_head(self.slide, self.model, self.tissue) | {
            "tiles": len(self),
            "length": self.store.length,
            "spacing_um": stage.effective_um[1],
            "patch": stage.patch[1],
            "seconds": round(self.seconds, 2),
        }

    def write(
        self,
        out: str | Path,
        *,
        name: str | None = None,
        publishing: Publishing = Publishing(),  # noqa: B008 - frozen
    ) -> Path:
        """Write the files of this slide to `out/<name>/` and return that folder.

        `embeddings.zarr`, `embeddings.parquet` (unless the options leave it out) and `run.json`.
        The folder appears when everything in it is there; an earlier run's is replaced.

        Raises
        ------
        UsageError
            If the extra that Parquet needs is not installed.
        RunError
            If the folder cannot be written, or holds something else.
        DiskFullError
            If there is no room left.
        """
        if self.options.parquet:
            require_parquet()
        name = name or self.slide.stem
        own = fingerprint(self.slide.path) if self.slide.path else None
        with finished_folder(
            Path(out), name, kind="embed", slide=own, publishing=publishing
        ) as folder:
            link_tree(self.store.path, folder / self.store.path.name)
            if self.options.parquet:
                _write_parquet(self.store, folder / "embeddings.parquet")
            record = orjson.dumps(self.provenance(), option=orjson.OPT_INDENT_2)
            (folder / "run.json").write_bytes(record)
        return Path(out) / name

    def to_anndata(self) -> "AnnData":
        """Return the vectors as a table of tiles (needs the extra `notebook`).

        Returns
        -------
        anndata.AnnData
            `X`: float32 (n, length). `obs`: `x`, `y` (level-0 pixels of the tile's corner) and
            `tissue`. `obsm["spatial"]`: the tiles' centres, x and y in level-0 pixels, as squidpy
            and scanpy take them. `uns["wsiseg"]`: slide, model, tile and spacing.

        Raises
        ------
        UsageError
            If anndata is not installed.
        """
        try:
            from anndata import AnnData
        except ImportError as error:
            raise UsageError("to_anndata: needs anndata; pip install 'wsiseg[notebook]'") from error
        (stage,) = self.plan.stages
        y0, x0, y1, x1 = np.asarray(self.store.coordinates[:]).T
        return AnnData(
            np.asarray(self.store.vectors[:]),
            obs={"x": x0, "y": y0, "tissue": np.asarray(self.store.tissue[:])},
            obsm={"spatial": np.stack([x0 + x1, y0 + y1], axis=1) / 2},
            uns={
                "wsiseg": {
                    "slide": self.slide.name,
                    "model": self.model.card.title,
                    "patch": list(stage.patch),
                    "spacing_um": list(stage.effective_um),
                }
            },
        )

    def provenance(self) -> dict[str, Any]:
        """Return where the vectors come from: slide, model, options, machine, times."""
        run = (self.slide, self.model, self.options, self.plan, [self.report])
        return run_record(*run, summary=self.summary())


def embed(
    slide: Pyramid | str | Path,
    model: Model | str | Path,
    *,
    options: EmbedOptions = DEFAULTS,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    pinned: Pinned = NOTHING_PINNED,
    listen: Listener = ignore,
) -> Embeddings:
    """Compute the vector of each tile with enough tissue.

    Parameters
    ----------
    slide
        An open slide, or what `wsiseg.open` takes.
    model
        A loaded model of task `embedding`, or the name or folder of one.
    options
        What counts as tissue, and how the machine is used.
    work_dir
        Where `embeddings.zarr` is written as vectors arrive; default: a temporary folder that
        lives as long as the program.
    journal, pinned
        As for `wsiseg.segment`.
    listen
        Called with progress events (`wsiseg.engine.events`).

    Returns
    -------
    Embeddings
        Vectors float32 (n, length) with coordinates in level-0 pixels; `write` makes the files.

    Raises
    ------
    UsageError
        If the model gives classes; see `wsiseg.segment`.
    MissingSpacingError
        If the slide does not say how large its pixels are; open it with `mpp=`.
    SpacingUnavailableError
        If the model wants finer pixels than the slide has.
    DamagedFileError
        If a needed block of the slide cannot be decoded.
    MemoryBudgetError
        If the run would need more memory than allowed.

    Warns
    -----
    EmptyTissueWarning
        If there is no tissue; there are then no vectors.
    """
    started = time.perf_counter()
    require_task(model, "embedding")
    # a vector of made-up pixels could not be told from others
    slide, model = as_pyramid(slide).with_damage("raise"), load_for_run(model, options.run)
    set_allocator(model.backend)
    setup = _lay_out(model, slide)
    tissue = find_tissue(slide, options.tissue)
    slide.forget()  # at its resolution nobody comes back
    resume = Resume(journal, slide, options.run) if journal is not None else None
    if resume is not None and pinned == NOTHING_PINNED:
        selected = select_tiles(setup, tissue, options.tissue.min_fraction)
        model, pinned = resume.again(model, [setup], [selected])
    plan = make_plan(
        [setup],
        model,
        tissue,
        slide=slide.name,
        tissue_options=options.tissue,
        options=options.run,
        paces=pinned.paces,
    )
    release_memory()
    folder = journal.folder if journal is not None else work_dir or temporary_folder()
    path = folder / "embeddings.zarr"
    if journal is not None:
        shutil.rmtree(path, ignore_errors=True)
    report = _run(model, plan, tissue, path, slide, resume, listen)
    return Embeddings(
        slide=slide,
        model=model,
        options=options,
        plan=plan,
        tissue=tissue,
        store=VectorStore(path),
        report=report,
        seconds=time.perf_counter() - started,
    )


def require_parquet() -> None:
    """Raise `UsageError` where Parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(
            'Parquet needs pyarrow, which is not installed: pip install "wsiseg[notebook]", or '
            "leave Parquet out (--no-parquet)"
        ) from error


def _lay_out(model: Model, slide: Pyramid) -> StageSetup:
    """Return the one stage of a model on the slide, a channel per value of its vectors."""
    (setup,), (length,) = lay_out(model.card, slide), model.channels
    return replace(setup, channels=tuple(map(str, range(length))))


def _run(
    model: Model,
    plan: Plan,
    tissue: TissueMask,
    path: Path,
    slide: Pyramid,
    resume: Resume | None,
    listen: Listener,
) -> StageReport:
    """Write the vectors of the tiles planned."""
    (setup,), (selected,), (stage,) = plan.setups, plan.selected, plan.stages
    coordinates = _coordinates(setup, selected)
    kept = None
    if resume is not None:
        kept = resume.stage(
            model, setup, selected, pace=stage.pace, decoding=plan.decoding, parts=(VECTORS,)
        )
    with (
        VectorWriter(
            path,
            selected,
            len(setup.channels),
            coordinates=coordinates,
            tissue=tissue.fraction(coordinates),
            attributes=_attributes(setup, model, slide),
        ) as writer,
        share_levels(plan.setups, plan.selected, path.parent) as shared,
    ):
        return run_stage(
            setup,
            connect(setup, {}, {k: view for (_, k), view in shared.items()}),
            selected,
            model.predictors[0],
            writer if kept is None else kept.reducer(VECTORS, writer, selected),
            pace=stage.pace,
            kept=kept,
            folder=path.parent if stage.cut_bytes else None,
            slide=slide.name,
            listen=listen,
        )


def _coordinates(setup: StageSetup, selected: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return y0, x0, y1, x1 of the selected tiles in level-0 pixels, all of one size; (n, 4)."""
    downsample = np.asarray(setup.reference.downsample)
    start = np.rint(np.argwhere(selected) * setup.grid.stride * downsample)
    size = np.rint(setup.grid.patch * downsample)
    boxes: NDArray[np.int64] = np.concatenate([start, start + size], axis=1).astype(np.int64)
    return boxes


def _attributes(setup: StageSetup, model: Model, slide: Pyramid) -> Mapping[str, Any]:
    """Return what the vectors are of; per axis (y, x), but the slide's mpp (x, y)."""
    return {
        "wsiseg": __version__,
        "slide": slide.name,
        "mpp": list(slide.spacing.um[::-1]),
        "model": model.card.name,
        "model_version": model.card.version,
        "model_digest": model.digest,
        "requested_um": list(setup.reference.requested.um),
        "effective_um": list(setup.reference.spacing.um),
        "patch": list(setup.grid.patch),
        "stride": list(setup.grid.stride),
    }


def _write_parquet(store: VectorStore, path: Path) -> None:
    """Write a row per tile, a row group per chunk; the attributes are the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = ("x", "y", "width", "height")
    fields = [pa.field(name, pa.int64()) for name in places]
    fields += [
        pa.field("tissue", pa.float32()),
        pa.field("embedding", pa.list_(pa.float32(), store.length)),
    ]
    schema = pa.schema(fields, metadata={"wsiseg": orjson.dumps(dict(store.attributes))})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for rows in store.chunks():
            y0, x0, y1, x1 = np.asarray(store.coordinates[rows]).T
            vectors = pa.array(np.asarray(store.vectors[rows]).ravel())
            columns = [pa.array(column) for column in (x0, y0, x1 - x0, y1 - y0)]
            columns.append(pa.array(np.asarray(store.tissue[rows])))
            columns.append(pa.FixedSizeListArray.from_arrays(vectors, store.length))
            writer.write_table(pa.table(columns, schema=schema))
