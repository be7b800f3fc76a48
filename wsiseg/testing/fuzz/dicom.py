"""A whole-slide image in DICOM, as small as can be; needs pydicom."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import ceil_div

__all__ = ["write_level"]

ROOT = "1.2.826.0.1.3680043.8.498"
"""Under which pydicom makes UIDs."""

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write_level(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    mpp: float,
    tile: int,
    is_sparse: bool = False,
    series: int = 2,
) -> None:
    """Write one level of a series in baseline JPEG.

    Parameters
    ----------
    pixels
        `(y, x, 3)` uint8.
    mpp
        µm per pixel.
    is_sparse
        List where each tile lies instead of having all of them in order.
    series
        Images of one number belong together.
    """
    import simplejpeg  # type: ignore[import-untyped]
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.sequence import Sequence
    from pydicom.uid import UID

    def dataset(**values: object) -> Dataset:
        made = Dataset()
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    height, width = pixels.shape[:2]
    rows, columns = ceil_div(height, tile), ceil_div(width, tile)
    full = np.pad(
        pixels, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge"
    )
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(WHOLE_SLIDE)
    meta.MediaStorageSOPInstanceUID = UID(f"{ROOT}.{series}.{height}")
    meta.TransferSyntaxUID = UID(JPEG_BASELINE)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    millimetres = [round(mpp / 1000, 9)] * 2
    measures = dataset(PixelSpacing=millimetres, SliceThickness=0.001)
    values: dict[str, Any] = {
        "SOPClassUID": WHOLE_SLIDE, "SOPInstanceUID": f"{ROOT}.{series}.{height}",
        "StudyInstanceUID": f"{ROOT}.1", "SeriesInstanceUID": f"{ROOT}.{series}",
        "FrameOfReferenceUID": f"{ROOT}.4", "Modality": "SM", "Manufacturer": "Maker",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "TotalPixelMatrixRows": height, "TotalPixelMatrixColumns": width,
        "SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422",
        "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7,
        "PixelRepresentation": 0, "Rows": tile, "Columns": tile, "NumberOfFrames": len(corners),
        "ImagedVolumeWidth": 1.0, "ImagedVolumeHeight": 1.0,
        "ImageOrientationSlide": [0, 1, 0, 1, 0, 0],
        "SharedFunctionalGroupsSequence": Sequence(
            [dataset(PixelMeasuresSequence=Sequence([measures]))]
        ),
        "TotalPixelMatrixOriginSequence": Sequence([dataset(
            XOffsetInSlideCoordinateSystem=10.0, YOffsetInSlideCoordinateSystem=20.0
        )]),
        "OpticalPathSequence": Sequence(
            [dataset(OpticalPathIdentifier="1", ObjectiveLensPower=20.0)]
        ),
        "NumberOfOpticalPaths": 1, "TotalPixelMatrixFocalPlanes": 1,
        "DimensionOrganizationType": "TILED_SPARSE" if is_sparse else "TILED_FULL",
    }  # fmt: skip
    if is_sparse:
        values["PerFrameFunctionalGroupsSequence"] = Sequence(
            [
                dataset(
                    PlanePositionSlideSequence=Sequence([dataset(
                        RowPositionInTotalImagePixelMatrix=y + 1,
                        ColumnPositionInTotalImagePixelMatrix=x + 1,
                        XOffsetInSlideCoordinateSystem=0.0, YOffsetInSlideCoordinateSystem=0.0,
                        ZOffsetInSlideCoordinateSystem=0.0,
                    )])
                )
                for y, x in corners
            ]
        )  # fmt: skip
    for keyword, value in values.items():
        setattr(data, keyword, value)
    frames = [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(full[y : y + tile, x : x + tile]), 80, colorsubsampling="422"
        )
        for y, x in corners
    ]
    data.PixelData = encapsulate(frames)
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
