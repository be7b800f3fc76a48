"""N4 bias field correction of MR, by SimpleITK where it is installed."""

from typing import TYPE_CHECKING, Any

import numpy as np

from wsiseg.errors import ModelError
from wsiseg.geometry import Box
from wsiseg.source.volumes import Volume, open_volume

if TYPE_CHECKING:
    from wsiseg.volume.scan import Scan

__all__ = ["corrected"]

SHRINK = 4
"""The field is estimated on every fourth voxel, as it is smooth (ITK's own examples)."""


def corrected(scan: "Scan") -> "Scan":
    """Return a scan with the bias field of each channel taken out; held in memory.

    Raises
    ------
    ModelError
        If SimpleITK is not installed.

    References
    ----------
    Tustison et al. 2010, N4ITK, doi:10.1109/TMI.2010.2046908.
    """
    itk = _simpleitk()
    values = scan.within(Box.of_shape(scan.whole)).read(Box.of_shape(scan.whole))
    channels = [_corrected(itk, values[..., c]) for c in range(values.shape[-1])]
    volumes = []
    for channel in channels:
        opened = open_volume(channel, affine=scan.affine)
        volumes.append(Volume(opened.source, path=scan.volumes[0].path))
    return type(scan)(tuple(volumes), scan.box)


def _corrected(itk: Any, values: "np.typing.NDArray[np.float32]") -> Any:  # noqa: ANN401
    image = itk.GetImageFromArray(np.ascontiguousarray(values))
    mask = itk.OtsuThreshold(image, 0, 1, 200)
    small = itk.Shrink(image, [SHRINK] * 3)
    n4 = itk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(small, itk.Shrink(mask, [SHRINK] * 3))
    field = n4.GetLogBiasFieldAsImage(image)
    return itk.GetArrayFromImage(image / itk.Exp(field))


def _simpleitk() -> Any:  # noqa: ANN401 - a module
    try:
        import SimpleITK
    except ImportError as error:
        raise ModelError(
            "the model corrects the bias field (N4), which needs SimpleITK: pip install SimpleITK"
        ) from error
    return SimpleITK
