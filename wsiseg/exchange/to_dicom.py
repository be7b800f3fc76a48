"""Mask as DICOM SEG and objects as DICOM ANN, for slides that are DICOM themselves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import AnnotationClass
from wsiseg.annotations.prepared import prepared_polygons
from wsiseg.errors import RunError, UsageError
from wsiseg.exchange._dicom import (
    CHARACTERS,
    MAKER,
    algorithm,
    kind,
    load_highdicom,
    short_text,
)
from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.objects import result_objects
from wsiseg.exchange.pieces import without_holes
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.stitch import Placement
from wsiseg.stitch.store import readable

__all__ = ["to_dicom_ann", "to_dicom_seg"]

LARGEST_MASK = 1 << 31
"""Pixels of a mask; it is held in memory, since that is how highdicom takes it."""

TILE = 256
NUMBERS = {"seg": 9101, "ann": 9102}
"""Series numbers: high, so that they come after those of scanners."""


def to_dicom_seg(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.seg.dcm`: a tiled binary segmentation, a segment per class of the mask.

    It lies in the frame of reference of the slide's base image, with the mask's pixel size. Patient
    and specimen are those of the slide, as DICOM demands.

    Raises
    ------
    UsageError
        If the slide is not DICOM.
    RunError
        If highdicom is not installed, the slide's header lacks what a SEG needs, the mask is empty
        or too large, or the file is there and not to be overwritten.
    DiskFullError
        If there is no room left.
    """
    highdicom = load_highdicom()
    mask = result.mask
    if np.prod(mask.shape) > LARGEST_MASK:
        raise RunError(
            f"{mask.path}: {mask.shape[1]} x {mask.shape[0]} pixels, needed at most {LARGEST_MASK} "
            "of them for DICOM SEG; export ome-tiff"
        )
    base = _base_image(result)
    with readable(mask.path):
        labels = np.asarray(mask.labels)
    if not labels.any():
        raise RunError(f"{mask.path}: empty, which DICOM SEG cannot say; export another format")
    classes = result.mask_classes()[1:]
    path = out / f"{result.name}.seg.dcm"
    with whole_file(path, overwrite=request.overwrite) as part:
        try:
            made = highdicom.seg.Segmentation(
                source_images=[base],
                pixel_array=labels[np.newaxis],
                segmentation_type="BINARY",
                segment_descriptions=[
                    highdicom.seg.SegmentDescription(
                        segment_number=number,
                        segment_label=short_text(item.name),
                        **kind(item, number, "segmented_property"),
                        algorithm_type="AUTOMATIC",
                        algorithm_identification=algorithm(highdicom, result.record),
                        display_color=highdicom.color.CIELabColor.from_rgb(*item.color),
                    )
                    for number, item in enumerate(classes, start=1)
                ],
                **_instance(result, base, "seg"),
                pixel_measures=_pixel_measures(highdicom, mask.placement),
                plane_orientation=highdicom.PlaneOrientationSequence(
                    "SLIDE", base.ImageOrientationSlide
                ),
                plane_positions=[_position(highdicom, base, mask.placement)],
                tile_pixel_array=True,
                tile_size=(TILE, TILE),
                content_label="MASK",
            )
        except (AttributeError, ValueError, TypeError) as error:
            raise _unfit(result, error) from error
        made.save_as(part)
    return ExportReport((path,), len(classes))


def to_dicom_ann(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.ann.dcm`: bulk simple annotations, a group of polygons per class, with areas.

    Coordinates are those of the base image's total pixel matrix, which are level-0 pixels. DICOM's
    polygons have no holes: outlines with holes are cut apart, which the report counts.

    Raises
    ------
    UsageError
        If the slide is not DICOM, or points are asked for.
    RunError
        If highdicom is not installed, the slide's header lacks what an ANN needs, there are no
        objects, or the file is there and not to be overwritten.
    AnnotationError
        If the annotations cannot be read.
    DiskFullError
        If there is no room left.
    """
    highdicom = load_highdicom()
    if request.kind == "points":
        raise UsageError("DICOM ANN: needed areas, found points; leave --as out")
    base = _base_image(result)
    notes: Counter[str] = Counter()
    groups = _groups(result, request, notes)
    if not groups:
        raise RunError(f"{result.folder}: no objects, which DICOM ANN cannot say")
    path = out / f"{result.name}.ann.dcm"
    with whole_file(path, overwrite=request.overwrite) as part:
        try:
            made = highdicom.ann.MicroscopyBulkSimpleAnnotations(
                source_images=[base],
                annotation_coordinate_type="2D",
                annotation_groups=[
                    _annotation_group(highdicom, result, number, group)
                    for number, group in enumerate(groups, start=1)
                ],
                **_instance(result, base, "ann"),
                content_label="OBJECTS",
            )
        except (AttributeError, ValueError, TypeError) as error:
            raise _unfit(result, error) from error
        made.save_as(part)
    return ExportReport((path,), sum(len(group.outlines) for group in groups), dict(notes))


@dataclass(slots=True)
class _Group:
    """The polygons of a class."""

    item: AnnotationClass
    outlines: list[NDArray[np.float64]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)


def _groups(result: FinishedResult, request: ExportRequest, notes: Counter[str]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    without = AnnotationClass("Unclassified", (128, 128, 128))
    um2 = result.image.spacing.area_um2
    for several in result_objects(result, request, notes):
        if several.are_points:
            notes["points, which these annotations have no place for"] += len(several)
            continue
        items = [*several.classes, without]  # UNCLASSIFIED is -1
        for prepared in prepared_polygons(several, "level0", notes):
            index = several.class_index[prepared.rows].tolist()
            for i, geometry in zip(index, prepared.geometries, strict=True):
                group = groups.setdefault(items[i].name, _Group(items[i]))
                pieces = without_holes(geometry)
                notes["outlines cut into pieces without holes"] += len(pieces) > 1
                group.outlines += [shapely.get_coordinates(piece)[:-1] for piece in pieces]
                group.areas += [piece.area * um2 for piece in pieces]
    return list(groups.values())


def _annotation_group(
    highdicom: Any,  # noqa: ANN401 - the module
    result: FinishedResult,
    number: int,
    group: _Group,
) -> Any:  # noqa: ANN401
    from pydicom.sr.codedict import codes

    return highdicom.ann.AnnotationGroup(
        number=number,
        uid=_uid(result, f"group {group.item.name}"),
        label=short_text(group.item.name),
        **kind(group.item, number, "annotated_property"),
        graphic_type="POLYGON",
        graphic_data=group.outlines,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm(highdicom, result.record),
        measurements=[
            highdicom.ann.Measurements(
                name=codes.SCT.Area,
                values=np.array(group.areas),
                unit=codes.UCUM.SquareMicrometer,
            )
        ],
        display_color=highdicom.color.CIELabColor.from_rgb(*group.item.color),
    )


def _base_image(result: FinishedResult) -> Any:  # noqa: ANN401
    """Return the header of the slide's largest image."""
    said = result.record.get("slide", {})
    reader = said.get("reader")
    if reader not in {None, "dicom"} and result.slide_path is None:
        raise UsageError(
            f"{result.folder}: its slide {said.get('name')} was read by {reader!r}: needed a DICOM "
            "slide, since SEG and ANN refer to its instances; export ome-tiff or geoparquet, or "
            "convert the slide to DICOM first"
        )
    path = result.slide_path or said.get("path")
    if path is None or not Path(path).exists():
        raise RunError(
            f"{result.folder}: needs its DICOM slide, found none at {path}; pass --slide"
        )
    from pydicom import dcmread

    from wsiseg.source._dicom_files import slide_files

    volumes = [file for file in slide_files(Path(path)) if file.flavor == "VOLUME"]
    headers = [dcmread(file.path, stop_before_pixels=True) for file in volumes]
    fitting = [
        header
        for header in headers
        if (header.TotalPixelMatrixRows, header.TotalPixelMatrixColumns) == result.image.shape
    ]
    if not fitting:
        sizes = [(h.TotalPixelMatrixColumns, h.TotalPixelMatrixRows) for h in headers]
        raise RunError(
            f"{path}: needed an image of {result.image.shape[1]} x {result.image.shape[0]} pixels, "
            f"found {sizes or 'none'}; name the right slide"
        )
    base = fitting[0]
    if "TotalPixelMatrixOriginSequence" not in base or "ImageOrientationSlide" not in base:
        raise RunError(
            f"{path}: its header does not say where it lies on the glass "
            "(TotalPixelMatrixOriginSequence, ImageOrientationSlide), which SEG and ANN need; "
            "export another format"
        )
    return base


def _unfit(result: FinishedResult, error: Exception) -> RunError:
    return RunError(
        f"{result.folder}: the header of its slide lacks something that DICOM demands here: {error}"
    )


def _instance(result: FinishedResult, base: Any, kind: str) -> dict[str, Any]:  # noqa: ANN401
    """Return what identifies the new instance; its UIDs are the same each time."""
    return {
        "series_instance_uid": _uid(result, base.SOPInstanceUID, kind, "series"),
        "series_number": NUMBERS[kind],
        "sop_instance_uid": _uid(result, base.SOPInstanceUID, kind, "instance"),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": str(result.record.get("wsiseg", "unknown")),
        "device_serial_number": "0",
        "specific_character_set": CHARACTERS,
    }


def _uid(result: FinishedResult, *parts: str) -> str:
    from pydicom.uid import generate_uid

    slide = str(result.record.get("slide", {}).get("sha256_sampled"))
    digest = str(result.record.get("model", {}).get("digest"))
    return str(generate_uid(entropy_srcs=[MAKER, result.name, slide, digest, *parts]))


def _pixel_measures(highdicom: Any, placement: Placement) -> Any:  # noqa: ANN401
    um_y, um_x = placement.spacing.um
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=(um_y / 1000, um_x / 1000), slice_thickness=0.001
    )


def _position(highdicom: Any, base: Any, placement: Placement) -> Any:  # noqa: ANN401
    """Return where the centre of the mask's first pixel lies on the glass, in mm."""
    origin = base.TotalPixelMatrixOriginSequence[0]
    corner = [
        float(origin.XOffsetInSlideCoordinateSystem),
        float(origin.YOffsetInSlideCoordinateSystem),
        float(origin.get("ZOffsetInSlideCoordinateSystem") or 0.0),
    ]
    along: Sequence[float] = [float(v) for v in base.ImageOrientationSlide]
    # As OME-NGFF's: from the centre of the base's first pixel to that of the mask's.
    y, x = (um / 1000 for um in placement.translation_um(0))
    place = np.array(corner) + x * np.array(along[:3]) + y * np.array(along[3:])
    return highdicom.PlanePositionSequence(
        coordinate_system="SLIDE",
        image_position=place.tolist(),
        pixel_matrix_position=(1, 1),
    )
