"""Losses of patches and pixels. What nobody knows costs nothing.

Every loss takes logits (n, class, *axes), labels int64 (n, *axes) and the value of labels to be
ignored, and returns a scalar; ignored places have no influence on value or gradient, and a batch
of nothing else costs 0. Class 0 is background. Labels (n,) are those of whole patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch.nn import functional

from wsiseg.errors import TrainingError

__all__ = [
    "IGNORE",
    "DeepSupervision",
    "Loss",
    "LossOptions",
    "WeightedSum",
    "central_share",
    "cross_entropy_loss",
    "focal_loss",
    "make_loss",
    "patch_loss",
    "segmentation_loss",
    "soft_dice_loss",
    "tversky_loss",
]

IGNORE = 255
"""Label of what nobody knows."""

SMOOTH = 1.0
"""Added above and below in the Dice ratio, as in H2G-Net: an empty image scores 1, not 0 / 0."""

Outputs = torch.Tensor | Sequence[torch.Tensor]
"""Logits, or those of several outputs, finest first."""


class Loss(Protocol):
    """What the functions of this module have in common."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = IGNORE
    ) -> torch.Tensor:
        """Return a scalar."""
        ...


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Which losses are added up: weights 0 leave one out.

    Raises
    ------
    TrainingError
        If no weight is positive, or one is negative.
    """

    dice: float = 1.0
    cross_entropy: float = 1.0
    tversky: float = 0.0
    focal: float = 0.0

    over_batch: bool = False
    """Dice and Tversky of all images together instead of the mean over images."""

    class_weights: tuple[float, ...] = ()
    """Weights of the classes in the cross-entropy; none: all alike."""

    tversky_alpha: float = 0.5
    """Weight of false positives; 0.5 and 0.5 make a Dice."""

    tversky_beta: float = 0.5
    """Weight of false negatives."""

    focal_gamma: float = 2.0
    focal_alpha: float | None = None
    head_weights: tuple[float, ...] = ()
    """Weights of a deeply supervised network's outputs, finest first; none: 1 / n each."""

    def __post_init__(self) -> None:
        weights = (self.dice, self.cross_entropy, self.tversky, self.focal)
        others = (*self.class_weights, *self.head_weights, self.tversky_alpha, self.tversky_beta)
        if min(*weights, *others, self.focal_gamma) < 0 or max(weights) <= 0:
            raise TrainingError(
                f"loss: needed weights of 0 or more, one of them positive, found {self}; correct "
                "the options"
            )


def make_loss(options: LossOptions) -> "DeepSupervision":
    """Return the sum that the options describe, for networks of one or several outputs."""
    available: dict[str, Loss] = {
        "dice": partial(soft_dice_loss, over_batch=options.over_batch),
        "cross_entropy": partial(cross_entropy_loss, weights=options.class_weights),
        "tversky": partial(
            tversky_loss,
            alpha=options.tversky_alpha,
            beta=options.tversky_beta,
            over_batch=options.over_batch,
        ),
        "focal": partial(focal_loss, gamma=options.focal_gamma, alpha=options.focal_alpha),
    }
    terms = ((float(getattr(options, name)), loss) for name, loss in available.items())
    total = WeightedSum(tuple((weight, loss) for weight, loss in terms if weight))
    return DeepSupervision(total, options.head_weights)


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """A sum of losses, each with its weight."""

    terms: tuple[tuple[float, Loss], ...]

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = IGNORE
    ) -> torch.Tensor:
        """Return the sum."""
        values = [weight * loss(logits, labels, ignore_index) for weight, loss in self.terms]
        return torch.stack(values).sum()


@dataclass(frozen=True, slots=True)
class DeepSupervision:
    """A loss of every output of a network, coarser ones against every s-th label.

    Parameters
    ----------
    loss
        The loss of one output.
    weights
        Of the outputs, finest first; none: 1 / n each.
    """

    loss: Loss
    weights: tuple[float, ...] = ()

    def __call__(
        self, logits: Outputs, labels: torch.Tensor, ignore_index: int = IGNORE
    ) -> torch.Tensor:
        """Return the weighted sum over the outputs; a single output has weight 1.

        Raises
        ------
        TrainingError
            If there are other than as many weights as outputs, or the size of an output does not
            divide that of the labels.
        """
        if isinstance(logits, torch.Tensor):
            return self.loss(logits, labels, ignore_index)
        weights = self.weights or (1 / len(logits),) * len(logits)
        if len(weights) != len(logits):
            raise TrainingError(
                f"loss: {len(weights)} head weights for a network of {len(logits)} outputs; give "
                "one per output, finest first"
            )
        values = [
            weight * self.loss(output, _subsample(labels, output), ignore_index)
            for weight, output in zip(weights, logits, strict=True)
        ]
        return torch.stack(values).sum()


def _subsample(labels: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Return every s-th label along each axis, as many as the output has."""
    sizes, wanted = labels.shape[1:], output.shape[2:]
    strides = [size // max(1, n) for size, n in zip(sizes, wanted, strict=True)]
    if any(s * n != size for s, n, size in zip(strides, wanted, sizes, strict=True)):
        raise TrainingError(
            f"loss: an output of {tuple(wanted)} does not divide labels of {tuple(sizes)}; take "
            "patches whose size is a multiple of 2 to the number of poolings"
        )
    return labels[(slice(None), *(slice(None, None, stride) for stride in strides))]


def central_share(
    labels: torch.Tensor, classes: int, cell: int, ignore_index: int = IGNORE
) -> torch.Tensor:
    """Return how much of the central cell of each patch belongs to each class.

    Parameters
    ----------
    labels
        int64 (n, y, x) class indices.
    classes
        Number of classes.
    cell
        Side in pixels of the central square, the part of the slide a heatmap cell stands for.
    ignore_index
        Label of what is left out: shares are those of the rest.

    Returns
    -------
    float32 (n, classes), rows sum to one; or to zero where nothing of the cell is known.
    """
    top, left = ((size - cell) // 2 for size in labels.shape[1:])
    centre = labels[:, top : top + cell, left : left + cell].flatten(1)
    known = centre != ignore_index
    members = functional.one_hot(torch.where(known, centre, 0), classes) * known[..., None]
    return members.float().sum(dim=1) / known.sum(dim=1, keepdim=True).clamp(min=1)


def patch_loss(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = IGNORE, *, cell: int
) -> torch.Tensor:
    """Return the cross-entropy of patch logits (n, class) against the central cell's classes."""
    share = central_share(labels, logits.shape[1], cell, ignore_index)
    total = functional.cross_entropy(logits.float(), share, reduction="sum")
    return total / (share.sum(dim=1) > 0).sum().clamp(min=1)


def cross_entropy_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = IGNORE,
    *,
    weights: Sequence[float] = (),
) -> torch.Tensor:
    """Return the mean cross-entropy, weighted by class where there are weights."""
    logits = logits.float()
    per_class = torch.tensor(weights, device=logits.device) if weights else None
    total = functional.cross_entropy(
        logits, labels, per_class, ignore_index=ignore_index, reduction="sum"
    )
    known = labels != ignore_index
    counted = known if per_class is None else per_class[torch.where(known, labels, 0)] * known
    # In place of the mean of torch, which is 0 / 0 where nothing is known.
    return total / counted.sum().clamp(min=1e-6)


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = IGNORE,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> torch.Tensor:
    """Return the mean of `-(1 - p)^gamma log p`, where p is the probability of the true class.

    Parameters
    ----------
    gamma
        How little easy places count; 0 is cross-entropy.
    alpha
        Weight of foreground classes, background has `1 - alpha`; `None`: 1 for all.

    References
    ----------
    Lin et al. 2017, doi:10.1109/ICCV.2017.324.
    """
    entropy = functional.cross_entropy(
        logits.float(), labels, ignore_index=ignore_index, reduction="none"
    )
    known = labels != ignore_index
    values = -torch.expm1(-entropy)  # 1 - p
    values = values.clamp(min=1e-12) ** gamma * entropy  # whose gradient at p = 1 is no 0 / 0
    if alpha is not None:
        values = values * torch.where(labels == 0, 1 - alpha, alpha)
    return (values * known).sum() / known.sum().clamp(min=1)


def soft_dice_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = IGNORE,
    *,
    over_batch: bool = False,
) -> torch.Tensor:
    """Return `1 - (2 Σpg + 1) / (Σp² + Σg² + 1)`, mean over images and foreground classes.

    Parameters
    ----------
    logits
        float32 (n, class, y, x); probabilities p are their softmax.
    labels
        int64 (n, y, x) class indices; g is 1 where the class is.
    ignore_index
        Label of what is left out of all sums; an image of nothing else is left out.
    over_batch
        Sum over the images too, instead of taking the mean over them.

    References
    ----------
    Milletari et al. 2016, doi:10.1109/3DV.2016.79; without background, per image, as in
    Pedersen et al. 2022, doi:10.3389/fmed.2022.971873.
    """
    p, g, known = _foreground(logits, labels, ignore_index, over_batch=over_batch)
    common, total = (p * g).sum(dim=2), (p * p + g).sum(dim=2)
    return _mean_of_known(1 - (2 * common + SMOOTH) / (total + SMOOTH), known)


def tversky_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = IGNORE,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    over_batch: bool = False,
) -> torch.Tensor:
    """Return `1 - (TP + 1) / (TP + alpha FP + beta FN + 1)`, mean over images and foreground.

    Parameters
    ----------
    alpha, beta
        Weights of false positives and false negatives: more `beta`, more recall.
    over_batch
        Sum over the images too, instead of taking the mean over them.

    References
    ----------
    Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44.
    """
    p, g, known = _foreground(logits, labels, ignore_index, over_batch=over_batch)
    hit, spurious, missed = (p * g).sum(2), (p * (1 - g)).sum(2), ((1 - p) * g).sum(2)
    index = (hit + SMOOTH) / (hit + alpha * spurious + beta * missed + SMOOTH)
    return _mean_of_known(1 - index, known)


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = IGNORE
) -> torch.Tensor:
    """Return soft Dice plus cross-entropy: Dice for the overlap, entropy for honest odds."""
    return soft_dice_loss(logits, labels, ignore_index) + cross_entropy_loss(
        logits, labels, ignore_index
    )


def _foreground(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, *, over_batch: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return probabilities and truth (image, class, place), 0 where ignored, and who is known.

    Without background; with `over_batch`, all images are one.
    """
    labels = labels.reshape(len(labels), -1)
    mask = (labels != ignore_index)[:, None]
    p = logits.float().softmax(dim=1).reshape(*logits.shape[:2], -1)
    truth = torch.where(mask[:, 0], labels, 0)
    g = functional.one_hot(truth, logits.shape[1]).movedim(-1, 1).to(p.dtype)
    if over_batch:
        p, g, mask = (x.movedim(0, 1).flatten(1)[None] for x in (p, g, mask))
    return (p * mask)[:, 1:], (g * mask)[:, 1:], mask.any(dim=2)


def _mean_of_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the mean of (image, class) over the images (image, 1) that hold anything known."""
    return (values * known).sum() / (known.sum() * values.shape[1]).clamp(min=1)
