"""Small valid files of every format that wsiseg reads, made on the spot: what fuzzing changes."""

import gzip
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.testing.fuzz.scans import SCANS
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import (
    encode_jpeg_tiles,
    make_ome_tiff,
    make_svs,
    make_tiff_pyramid,
    pyramid_pixels,
    tissue_disc,
    write_tiles,
)

__all__ = ["MPP", "SHAPE", "Entry", "Original", "make_originals"]

Entry = Literal["slide", "scan", "geojson", "drawing", "mask", "model", "table", "result"]
"""Which way a file takes through wsiseg, see `entries`."""

SHAPE = (330, 420)
"""Pixels (y, x) of the slides."""

MPP = 0.5
TILE = 128
CLASSES = ("background", "Tumor")
SQUARE = [[40, 40], [200, 40], [200, 160], [40, 160], [40, 40]]
HOLE = [[80, 80], [120, 80], [120, 120], [80, 120], [80, 80]]
ID = "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0001"


@dataclass(frozen=True, slots=True)
class Original:
    """A valid file or folder."""

    name: str
    path: Path
    entry: Entry


Maker = Callable[[Path], Path]


def make_originals(folder: Path, only: Sequence[str] = ()) -> tuple[Original, ...]:
    """Write a file of every format into a folder; those that lack their package are left out.

    Parameters
    ----------
    folder
        Each format gets a folder in it, made anew.
    only
        Parts of the names of formats; none: all formats.

    Raises
    ------
    ValueError
        If no format is called so.
    """
    made = []
    for entry, makers in _MAKERS.items():
        for name, make in makers.items():
            wanted = not only or any(part in name for part in only)
            if wanted and all(find_spec(package) for package in _NEEDS.get(name, ())):
                place = folder / entry / name.split(" ")[0]
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                made.append(Original(name, make(place), entry))
    if not made:
        known = ", ".join(name for makers in _MAKERS.values() for name in makers)
        raise ValueError(f"no format is called like {', '.join(only)}; there are {known}")
    return tuple(made)


def _pixels() -> NDArray[np.uint8]:
    return tissue_disc(SHAPE)[0]


def _svs(folder: Path, *, jpeg2000: bool = False) -> Path:
    path = folder / "slide.svs"
    return make_svs(path, _pixels(), levels=(1, 4), tile=TILE, mpp=MPP, jpeg2000=jpeg2000)


def _tiff(compression: str, **options: Any) -> Maker:  # noqa: ANN401 - of another's function
    def make(folder: Path) -> Path:
        path = folder / "slide.tif"
        options_of = {"levels": (1, 4), "tile": TILE, "mpp": MPP, **options}
        return make_tiff_pyramid(path, _pixels(), compression=compression, **options_of)

    return make


def _ome_tiff(folder: Path) -> Path:
    path = folder / "slide.ome.tif"
    return make_ome_tiff(path, _pixels(), levels=(1, 4), tile=TILE, mpp=(MPP, MPP))


def _scn(folder: Path) -> Path:
    """Write a Leica SCN: BigTIFF, whose XML says how the pages belong together."""
    from tifffile import TiffWriter

    path, levels = folder / "slide.scn", pyramid_pixels(_pixels(), (1, 4))
    (height, width), nm = SHAPE, int(MPP * 1000)
    pages = "".join(
        f'<dimension sizeX="{p.shape[1]}" sizeY="{p.shape[0]}" r="{i}" ifd="{i}"/>'
        for i, p in enumerate(levels)
    )
    view = f'sizeX="{width * nm}" sizeY="{height * nm}"'
    glass = f'sizeX="{4 * width * nm}" sizeY="{4 * height * nm}"'  # else this is the macro image
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" uuid="urn:uuid:{ID}" {glass} barcode="x"><image name="i" '
        f'uuid="urn:uuid:{ID}"><pixels sizeX="{width}" sizeY="{height}">{pages}</pixels>'
        f'<view {view} offsetX="0" offsetY="0" spacingZ="0"/><scanSettings><objectiveSettings>'
        "<objective>20</objective></objectiveSettings><illuminationSettings><illuminationSource>"
        "brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        "</collection></scn>"
    )
    with TiffWriter(path, bigtiff=True) as writer:
        for index, level in enumerate(levels):
            image = encode_jpeg_tiles(level, tile=TILE)
            write_tiles(writer, image, description=xml if index == 0 else None)
    return path


def _ndpi(folder: Path) -> Path:
    """Write a Hamamatsu NDPI: one JPEG per page, and tags of its own."""
    import simplejpeg  # type: ignore[import-untyped]
    from tifffile import TiffWriter

    path = folder / "slide.ndpi"
    with TiffWriter(path) as writer:
        for lens, level in zip((20.0, 5.0), pyramid_pixels(_pixels(), (1, 4)), strict=True):
            data = simplejpeg.encode_jpeg(level, quality=80, colorsubsampling="422")
            writer.write(
                iter([data]), shape=level.shape, dtype=np.uint8, rowsperstrip=level.shape[0],
                photometric="ycbcr", subsampling=(2, 1), compression=7, metadata=None,
                compressionargs={"outcolorspace": "ycbcr"}, software=False,
                resolution=(10_000 / MPP * lens / 20, 10_000 / MPP * lens / 20),
                resolutionunit="CENTIMETER",
                extratags=[
                    (271, 2, 0, "Hamamatsu", True), (272, 2, 0, "C9600", True),
                    (65_420, 4, 1, 1, True), (65_421, 11, 1, lens, True),
                    (65_422, 9, 1, 0, True), (65_423, 9, 1, 0, True), (65_424, 9, 1, 0, True),
                ],
            )  # fmt: skip
    return path


def _philips(folder: Path) -> Path:
    """Write a Philips TIFF, whose XML gives the pixel sizes of the levels."""
    from tifffile import TiffWriter

    def attribute(name: str, group: str, kind: str, value: str) -> str:
        number = f'Group="{group[:6]}" Element="{group[6:]}" PMSVR="{kind}"'
        return f'<Attribute Name="{name}" {number}>{value}</Attribute>'

    spacing = f"&quot;{MPP / 1000}&quot; &quot;{MPP / 1000}&quot;"
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        + attribute("DICOM_PIXEL_SPACING", "0x00280x0030", "IDoubleArray", spacing)
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", "0x10010x8B02", "IUInt16", str(i))
        + "</DataObject>"
        for i in range(2)
    )
    scanned = attribute("PIM_DP_IMAGE_TYPE", "0x301D0x1004", "IString", "WSI")
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + attribute("DICOM_MANUFACTURER", "0x00080x0070", "IString", "PHILIPS")
        + '<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" '
        f'PMSVR="IDataObjectArray"><Array><DataObject ObjectType="DPScannedImage">{scanned}'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" '
        f'Element="0x8B01" PMSVR="IDataObjectArray"><Array>{levels}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )
    path = folder / "slide.tiff"
    with TiffWriter(path) as writer:
        for index, level in enumerate(pyramid_pixels(_pixels(), (1, 2))):
            image = encode_jpeg_tiles(level, tile=TILE)
            text, name = (xml if index == 0 else None), "Philips DP v1.0" if index == 0 else False
            write_tiles(writer, image, description=text, software=name, subfiletype=index)
    return path


def _zarr(version: int) -> Maker:
    def make(folder: Path) -> Path:
        import zarr

        path = folder / "slide.ome.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=2 if version == 4 else 3)
        datasets = []
        for index, level in enumerate(pyramid_pixels(_pixels(), (1, 4))):
            values = np.ascontiguousarray(np.moveaxis(level, -1, 0))
            more: Any = {"shards": (3, 2 * TILE, 2 * TILE)} if version == 5 and index == 0 else {}
            array = group.create_array(
                str(index), shape=values.shape, chunks=(3, TILE, TILE), dtype="uint8", **more
            )
            array[:] = values
            scale = [1.0, MPP * 4**index, MPP * 4**index]
            transform: Any = {"type": "scale", "scale": scale}
            datasets.append({"path": str(index), "coordinateTransformations": [transform]})
        space = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
        image: Any = {"axes": [{"name": "c", "type": "channel"}, *space], "datasets": datasets}
        if version == 5:
            group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
        else:
            group.attrs["multiscales"] = [{"version": "0.4", **image}]
        return path

    return make


def _image(suffix: str) -> Maker:
    def make(folder: Path) -> Path:
        import cv2

        path = folder / f"slide{suffix}"
        path.write_bytes(cv2.imencode(suffix, _pixels()[..., ::-1])[1].tobytes())
        return path

    return make


def _dicom(folder: Path, *, is_sparse: bool = False) -> Path:
    """Write a series of two levels, in JPEG."""
    from wsiseg.testing.fuzz.dicom import write_level

    path = folder / "series"
    path.mkdir()
    for index, level in enumerate(pyramid_pixels(_pixels(), (1, 4))):
        place = path / f"{index}.dcm"
        write_level(place, level, mpp=MPP * 4**index, tile=TILE, is_sparse=is_sparse)
    return path


def _feature(number: int, **properties: object) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": f"{ID[:-1]}{number}",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE, HOLE]},
        "properties": {"objectType": "annotation", **properties},
    }


def _features() -> dict[str, Any]:
    tumour = {"name": "Tumor", "color": [200, 0, 0]}
    parts = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[1, 1], [9, 1], [9, 9], [1, 1]]]]}
    nucleus = {"type": "Polygon", "coordinates": [[[50, 50], [60, 50], [60, 60], [50, 50]]]}
    cell = {**_feature(3, objectType="cell", classification=tumour), "nucleusGeometry": nucleus}
    features = [
        _feature(1, classification=tumour, measurements={"Area": 1.5, "p": 0.25}, isLocked=True),
        {**_feature(2, name="two", classification={"names": ["A", "B"]}), "geometry": parts},
        cell,
        {**_feature(4), "geometry": {"type": "MultiPoint", "coordinates": [[5, 5], [9, 9]]}},
    ]
    return {"type": "FeatureCollection", "features": features}


def _text(name: str, content: Callable[[], str]) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        data = content().encode()
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        return path

    return make


def _geojson() -> str:
    return json.dumps(_features())


def _own_geojson(folder: Path) -> Path:
    import shapely

    from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, write_annotations
    from wsiseg.geometry import Spacing

    image = ImageRef("slide.svs", SHAPE, Spacing((MPP, MPP)), "aperio")
    shapes = np.array([shapely.Polygon(SQUARE, [HOLE]), shapely.box(210, 50, 300, 90)], object)
    classes = (AnnotationClass("Tumor", (200, 0, 0)),)
    found = Annotations(shapes, np.zeros(2, np.int64), classes, image)
    return write_annotations(folder, found).files[0]


def _histomicsui() -> str:
    points = [[x, y, 0] for x, y in SQUARE]
    line = {"type": "polyline", "points": points, "closed": True, "group": "Tumor", "id": "a" * 24}
    box = {"type": "rectangle", "center": [90, 90, 0], "width": 40, "height": 30, "rotation": 0.2}
    return json.dumps({"name": "drawn", "elements": [line, {**box, "label": {"value": "Tumor"}}]})


def _asap() -> str:
    points = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(SQUARE[:-1])
    )
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" '
        f'PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>{points}</Coordinates></Annotation>'
        '</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#00ff00">'
        "<Attributes /></Group></AnnotationGroups></ASAP_Annotations>"
    )


def _imagescope() -> str:
    points = "".join(f'<Vertex X="{x}" Y="{y}" Z="0" />' for x, y in SQUARE[:-1])
    return (
        f'<Annotations MicronsPerPixel="{MPP}"><Annotation Id="1" Name="Tumor" LineColor="65280" '
        'Type="4"><Attributes><Attribute Name="Description" Id="0" Value="x" /></Attributes>'
        f'<Regions><Region Id="1" Type="0" NegativeROA="0" Text=""><Vertices>{points}</Vertices>'
        "</Region></Regions></Annotation></Annotations>"
    )


def _wsinfer() -> str:
    rows = [f"{x},{y},60,60,0.{x % 10},0.{9 - x % 10}" for x in (0, 61, 122) for y in (0, 60)]
    return "\n".join(["minx,miny,width,height,prob_background,prob_Tumor", *rows, ""])


def _clam(folder: Path) -> Path:
    import h5py

    path = folder / "slide.h5"
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=np.array([[0, 0], [64, 0], [0, 64]]))
        coords.attrs.update({"patch_size": 64, "patch_level": 0, "downsample": [1.0, 1.0]})
        file.create_dataset("attention_scores", data=np.array([0.1, 0.5, 0.9], np.float32))
    return path


def _tiatoolbox(folder: Path) -> Path:
    import sqlite3

    import shapely

    path = folder / "slide.db"
    shape = shapely.Polygon(SQUARE)
    point = shape.centroid
    with sqlite3.connect(path) as store:
        store.execute(
            "CREATE TABLE annotations(id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, "
            "cx FLOAT NOT NULL, cy FLOAT NOT NULL, geometry BLOB, properties TEXT, area INTEGER "
            "NOT NULL)"
        )
        store.execute("CREATE TABLE metadata(key TEXT UNIQUE, value TEXT)")
        store.execute("INSERT INTO metadata VALUES('version', '\"1.0.0\"')")
        row = (1, "a", "Polygon", point.x, point.y, shape.wkb, '{"type": "Tumor"}', int(shape.area))
        store.execute("INSERT INTO annotations VALUES(?, ?, ?, ?, ?, ?, ?, ?)", row)
    store.close()
    return path


def _mask_image(folder: Path) -> Path:
    import cv2

    path = folder / "mask.png"
    path.write_bytes(cv2.imencode(".png", _mask())[1].tobytes())
    return path


def _mask_tiff(folder: Path) -> Path:
    from tifffile import imwrite

    path = folder / "mask.tif"
    imwrite(path, _mask(), compression="zlib", tile=(64, 64), metadata=None, software=False)
    return path


def _mask_zarr(folder: Path) -> Path:
    from wsiseg.geometry import Box, Spacing
    from wsiseg.stitch import LabelClass, LabelStore, Placement

    path = folder / "mask.zarr"
    placement = Placement(SHAPE, Spacing((MPP, MPP)), (1.0, 1.0))
    classes = tuple(LabelClass(name, (9, 9, 9)) for name in CLASSES)
    with LabelStore.create(path, placement, classes=classes) as writer:
        writer.write(Box((0, 0), SHAPE), _mask())
        writer.finish()
    return path


def _mask() -> NDArray[np.uint8]:
    return tissue_disc(SHAPE)[1].astype(np.uint8)


def _model(folder: Path) -> Path:
    return make_colour_model(folder / "model", window=64)


def _bundled_model(folder: Path) -> Path:
    from wsiseg.model import find_model

    return Path(shutil.copytree(find_model("breast-tumour-demo"), folder / "model"))


def _table(folder: Path) -> Path:
    _svs(folder)
    path = folder / "slides.csv"
    path.write_text(f'slide,mpp_x,mpp_y\nslide.svs,{MPP},{MPP}\n"other, too.svs",0.25,0.25\n')
    return path


def _result(folder: Path) -> Path:
    """Leave what `segment` leaves, with the slide beside it."""
    from wsiseg.run import segment_folder

    model = make_colour_model(folder / "model")
    segment_folder([_svs(folder)], model, folder / "out")
    return folder / "out"


_MAKERS: Mapping[Entry, Mapping[str, Maker]] = {
    "slide": {
        "svs-jpeg": _svs,
        "svs-jpeg2000": lambda folder: _svs(folder, jpeg2000=True),
        "tiff-lzw": _tiff("lzw", predictor=True),
        "tiff-deflate": _tiff("zlib", subifds=True),
        "tiff-strips": _tiff("zlib", tile=None, rowsperstrip=32),
        "bigtiff-jpeg2000": _tiff("jpeg2000"),
        "ome-tiff": _ome_tiff,
        "scn": _scn,
        "ndpi": _ndpi,
        "philips": _philips,
        "ome-zarr-0.4": _zarr(4),
        "ome-zarr-0.5": _zarr(5),
        "dicom": _dicom,
        "dicom-sparse": lambda folder: _dicom(folder, is_sparse=True),
        "png": _image(".png"),
        "jpeg": _image(".jpg"),
        "jp2": _image(".jp2"),
    },
    "scan": SCANS,
    "geojson": {
        "geojson": _text("a.geojson", _geojson),
        "geojson-gz": _text("a.geojson.gz", _geojson),
        "geojson-own": _own_geojson,
    },
    "drawing": {
        "asap": _text("a.xml", _asap),
        "imagescope": _text("a.xml", _imagescope),
        "histomicsui": _text("a.json", _histomicsui),
        "wsinfer": _text("a.csv", _wsinfer),
        "clam": _clam,
        "tiatoolbox": _tiatoolbox,
    },
    "mask": {"mask-png": _mask_image, "mask-tiff": _mask_tiff, "mask-zarr": _mask_zarr},
    "model": {"model-onnx": _model, "model-safetensors": _bundled_model},
    "table": {"slide-table": _table},
    "result": {"result": _result},
}
_NEEDS = {
    "dicom": ("pydicom", "wsidicom"),
    "dicom-sparse": ("pydicom", "wsidicom"),
    "series": ("pydicom",),
    "multiframe": ("pydicom",),
    "clam": ("h5py",),
}
