"""Networks by name: MobileNetV2 and U-Nets of our own, backbones of MONAI and timm."""

from wsiseg.model.networks.features import features
from wsiseg.model.networks.registry import architectures, build
from wsiseg.model.networks.unet import receptive_field_radius

__all__ = ["architectures", "build", "features", "receptive_field_radius"]
