"""Which of a file's properties may be shown and stored: technical ones, by an allow-list.

Vendors mix patient names, accession numbers, user names, barcodes and times of scanning into the
same fields as the optics. A key is kept only where it is known to be technical.
"""

import re
from collections.abc import Mapping

__all__ = ["technical"]

_TECHNICAL = re.compile(
    r"""(?xi)
    openslide\.(vendor | mpp-[xy] | objective-power | level-count | background-color | icc-size
                | quickhash-1 | bounds-(x | y | width | height)
                | level\[\d+\]\.(downsample | width | height | tile-width | tile-height)
                | region\[\d+\]\.(x | y | width | height))
    | aperio\.(AppMag | MPP | Filtered | StripeWidth | Original(Width | Height) | Left | Top
                | Gamma | Focus\ Offset | LineCameraSkew | LineAreaXOffset | LineAreaYOffset
                | DisplayColor | Exposure\ Scale | ICC\ Profile)
    | tiff\.([XY]Resolution | ResolutionUnit | compression | photometric)
    | hamamatsu\.(SourceLens | [XY]OffsetFromSlideCentre | ZOffsetFromSlideCentre
                | AHEX\[\d+\] | MHLN\[\d+\])
    | leica\.(objective | aperture)
    | mirax\.GENERAL\.(OBJECTIVE_MAGNIFICATION | IMAGENUMBER_[XY]
                | CAMERA_BITDEPTH | CURRENT_SLIDE_VERSION)
    | mirax\..*\.(MICROMETER_PER_PIXEL_[XY] | OVERLAP_[XY] | IMAGE_FILL_COLOR_BGR
                | IMAGE_FORMAT | IMAGE_COMPRESSION_FACTOR | DIGITIZER_WIDTH | DIGITIZER_HEIGHT)
    | philips\.(DICOM_PIXEL_SPACING | DICOM_BITS_ALLOCATED | DICOM_LOSSY_IMAGE_COMPRESSION\w*
                | PIM_DP_UFS_INTERFACE_VERSION)
    | sakura\.(NominalLensMagnification | ResolutionMmPerPix)
    | trestle\.(Objective\ Power | Background\ Color | OverlapsXY)
    | ventana\.(Magnification | ScanRes | Z-layers | Z-spacing | ScanWhitePoint)
    | zeiss\.(NominalMagnification | Scaling\.\w+)
    | ome\.(NominalMagnification | PhysicalSize[XY](Unit)?)
    """
)


def technical(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties whose keys are known to hold nothing personal, sorted by key."""
    return {key: properties[key] for key in sorted(properties) if _TECHNICAL.fullmatch(key)}
