"""A stage's network with fresh weights, that takes the stage's patches."""

import torch
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.model import networks
from wsiseg.model.card import ModelCard, StageSpec

__all__ = ["build_network"]


def build_network(card: ModelCard, stage: StageSpec) -> nn.Module:
    """Build the network of a stage.

    Raises
    ------
    ModelCardError
        If the architecture is unknown or refuses its arguments.
    TrainingError
        If it cannot take patches of the size that the card says.
    """
    channels = tuple(len(spec.channels) for spec in stage.inputs)
    network = networks.build(
        stage.weights.architecture,
        channels=channels,
        classes=len(card.classes),
        arguments=stage.weights.arguments,
    )
    if stage.extent == "window" or stage.reads_scan:
        _require_fit(network, stage, channels)
    return network


@torch.inference_mode()
def _require_fit(network: nn.Module, stage: StageSpec, channels: tuple[int, ...]) -> None:
    size = stage.inputs[0].patch
    try:
        network.eval()(*(torch.zeros(1, count, *size) for count in channels))
    except (RuntimeError, ValueError, IndexError) as error:
        raise TrainingError(
            f"stage {stage.name!r}: {stage.weights.architecture} cannot take patches of "
            f"{' x '.join(map(str, size[::-1]))} px: {str(error).splitlines()[0]}; take a larger "
            "patch, a multiple of 2 to the number of poolings"
        ) from error
    finally:
        network.train()
