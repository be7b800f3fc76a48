"""Augmentation of batches on any device: geometry moves everything, colour the image alone.

From the tissue to the file: the tissue lies in any direction, is folded, covered and torn, was
stained and scanned elsewhere, out of focus, with noise, and was compressed.
"""

from dataclasses import replace

import torch

from wsiseg.errors import TrainingError
from wsiseg.train.artefacts import paste_artefacts_, spill_glass_
from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws
from wsiseg.train.optics import add_noise_, compress_, defocus_
from wsiseg.train.patches import Patches, channels_first, restore, to_float
from wsiseg.train.stain import recolour
from wsiseg.train.warp import orient, warp

__all__ = ["AugmentOptions", "Patches", "augment_patches"]


@torch.no_grad()
def augment_patches(
    patches: Patches,
    options: AugmentOptions,
    *,
    spacing_um: float,
    generator: torch.Generator,
    size: int | None = None,
) -> Patches:
    """Return augmented patches with the layout, types and device of those given.

    Parameters
    ----------
    patches
        Are not changed.
    options
        Chances and strengths.
    spacing_um
        Size of a pixel of the patches.
    generator
        On the CPU; patches, options and its state decide the result, however many processes
        work. On another device, pixel noise is drawn by a generator of that device.
    size
        Side in pixels of the centre that is returned; a margin around it keeps rotated patches
        clear of the white beyond. Default: everything.

    Raises
    ------
    TrainingError
        If the spacing is not positive, the size is larger than the patches, or the generator is
        not on the CPU.
    """
    if spacing_um <= 0 or not 1 <= (1 if size is None else size) <= min(patches.size):
        raise TrainingError(
            f"augmentation: needed a positive spacing and a size of 1 to {min(patches.size)} px, "
            f"found {spacing_um} µm and {size}"
        )
    if generator.device.type != "cpu":
        raise TrainingError(
            f"augmentation: needed a generator on the CPU, found one on {generator.device}; the "
            "same seed shall give the same patches on every device"
        )
    draws = Draws(generator, len(patches.image), patches.image.device)
    work = to_float(orient(channels_first(patches), draws, options))  # bytes turn faster
    work = warp(work, draws, options, spacing_um=spacing_um, size=size)
    paste_artefacts_(work, draws, options, spacing_um=spacing_um)
    spill_glass_(work, draws, options)
    image = recolour(work.image, draws, options)
    defocus_(image, draws, options, spacing_um=spacing_um)
    add_noise_(image, draws, options)
    compress_(image, draws, options)
    return restore(replace(work, image=image), patches)
