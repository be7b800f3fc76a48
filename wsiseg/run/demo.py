"""The whole flow on bundled slides."""

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from wsiseg.engine import Listener, ignore
from wsiseg.errors import RunError
from wsiseg.options import TissueOptions
from wsiseg.run.inputs import SlideJob
from wsiseg.run.segment import segment_folder
from wsiseg.run.tissue import tissue_folder

__all__ = ["run_demo"]

TUMOUR = "OS-1-detail.ome.tif"
SKIN = "CMU-1-Small-Region.svs"


def run_demo(
    out: str | Path,
    *,
    listen: Listener = ignore,
    slide_done: Callable[[object], None] = ignore,
) -> list[tuple[Path, str]]:
    """Segment a breast tumour, find the tissue of a piece of skin; return what was written.

    Raises
    ------
    RunError
        If either failed.
    """
    out = Path(out)
    with as_file(files("wsiseg.bundled") / "slides") as slides:
        tumour = SlideJob(str(slides / TUMOUR), "OS-1-detail")
        skin = SlideJob(str(slides / SKIN), "CMU-1-Small-Region")
        segmented = segment_folder(
            [tumour], "breast-tumour-demo", out, listen=listen, slide_done=slide_done
        )
        outlined = tissue_folder([skin], out / "tissue", options=TissueOptions())
        slide_done(skin)
        for report in (*segmented.failures, *outlined.failures):
            raise RunError(f"the demo failed: {report.error}")
    folder = out / tumour.output
    return [
        (slides / TUMOUR, "the slide: open it in QuPath"),
        (folder / "annotations.geojson", "tumour: drag it onto the open slide"),
        (folder / "overview.png", "tissue and tumour at a glance: look here first"),
        (folder / "heatmap.zarr", "tumour probability (OME-Zarr)"),
        (folder / "run.json", "slide, model, options, versions, times"),
        (out / "summary.csv", "areas in mm²"),
        (out / "tissue" / skin.output / "overview.png", "tissue of a piece of skin"),
        (out / "tissue" / skin.output / "tissue.geojson", "its outline"),
    ]
