"""Batches of patches as tensors, on any device."""

from dataclasses import dataclass

import torch

from wsiseg.errors import TrainingError

__all__ = ["Patches", "channels_first", "restore", "to_float"]


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches of one size, `n` of them.

    Raises
    ------
    TrainingError
        If shapes or types do not fit.
    """

    image: torch.Tensor
    """RGB, uint8 or float in 0..1, (n, 3, y, x) or (n, y, x, 3)."""

    labels: torch.Tensor
    """Integer (n, y, x): class indices, 255 where nobody knows."""

    heatmap: torch.Tensor | None = None
    """Float probabilities in 0..1, channels where the image has them."""

    def __post_init__(self) -> None:
        image, labels, heatmap = self.image, self.labels, self.heatmap
        right = image.dim() == 4 and 3 in (image.shape[1], image.shape[3])
        right &= image.dtype == torch.uint8 or image.is_floating_point()
        right = right and labels.shape == (len(image), *self.size)
        right &= not labels.is_floating_point()
        if right and heatmap is not None:
            channel = 3 if self.channels_last else 1
            right = heatmap.is_floating_point() and heatmap.dim() == 4
            right = right and heatmap.select(channel, 0).shape == labels.shape
        if not right:
            found = {"image": image, "labels": labels, "heatmap": heatmap}
            shapes = {k: (tuple(v.shape), v.dtype) for k, v in found.items() if v is not None}
            raise TrainingError(
                "patches: needed RGB uint8 or float (n, 3, y, x) or (n, y, x, 3), integer labels "
                f"(n, y, x) and a float heatmap laid out like the image, found {shapes}"
            )

    @property
    def channels_last(self) -> bool:
        """Whether the image is (n, y, x, 3), as the labels tell."""
        size = self.labels.shape[1:]
        return self.image.shape[1:] != (3, *size) and self.image.shape[3] == 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        shape = self.image.shape[1:3] if self.channels_last else self.image.shape[2:]
        return shape[0], shape[1]


def channels_first(patches: Patches) -> Patches:
    """Return patches with (n, channel, y, x), of the same types."""
    if not patches.channels_last:
        return patches
    image, heatmap = patches.image.permute(0, 3, 1, 2).contiguous(), patches.heatmap
    return Patches(
        image,
        patches.labels,
        None if heatmap is None else heatmap.permute(0, 3, 1, 2).contiguous(),
    )


def to_float(patches: Patches) -> Patches:
    """Return new tensors, image and heatmap float32, the image in 0..1."""
    image = patches.image.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if patches.image.dtype == torch.uint8:
        image /= 255
    heatmap = None if patches.heatmap is None else patches.heatmap.to(torch.float32, copy=True)
    return Patches(image, patches.labels.clone(), heatmap)


def restore(patches: Patches, like: Patches) -> Patches:
    """Return float patches with the layout and types that others had before."""
    image, heatmap = patches.image, patches.heatmap
    if like.image.dtype == torch.uint8:
        image = (image * 255).round_()
    image = image.to(like.image.dtype)
    if heatmap is not None and like.heatmap is not None:
        heatmap = heatmap.to(like.heatmap.dtype)
    if like.channels_last:
        image = image.permute(0, 2, 3, 1).contiguous()
        heatmap = None if heatmap is None else heatmap.permute(0, 2, 3, 1).contiguous()
    return Patches(image, patches.labels, heatmap)
