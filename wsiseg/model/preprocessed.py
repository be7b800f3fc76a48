"""A torch network together with its preprocessing: raw pixels in, classes last out."""

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from wsiseg.errors import WeightsError
from wsiseg.model.card import InputSpec, StageSpec
from wsiseg.model.steps import LEAST_SPAN, affine, spreads

__all__ = ["PreprocessedNetwork", "load_network"]


class PreprocessedNetwork(nn.Module):
    """A network that takes what the slide gives and returns what the stitcher takes.

    Inputs are `(n, *patch, channel)` of any dtype, one per input of the stage; the output is
    float32 `(n, class)` or `(n, *patch, class)`. Pixels change to float inside, so that a GPU is
    sent a quarter of the bytes and an exported graph is complete.

    Parameters
    ----------
    network
        Takes `(n, channel, *patch)` float tensors, returns logits with classes second.
    stage
        The stage of the card.
    """

    def __init__(self, network: nn.Module, stage: StageSpec) -> None:
        super().__init__()
        self.network = network
        self.inputs = nn.ModuleList(_Preprocess(spec) for spec in stage.inputs)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, classes last."""
        ready = [step(x) for step, x in zip(self.inputs, inputs, strict=True)]
        logits: torch.Tensor = self.network(*ready)
        axes = range(2, logits.dim())
        return logits.permute(0, *axes, 1).float()


class _Preprocess(nn.Module):
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        steps, axes = affine(spec), (1, -1) + (1,) * len(spec.patch)
        self.scales, self.shifts, self.spreads = steps.scales, steps.shifts, spreads(spec)
        self.register_buffer("scale", torch.from_numpy(steps.scale).view(axes), persistent=False)
        self.register_buffer("offset", torch.from_numpy(steps.offset).view(axes), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Permuting first moves bytes, not floats, and makes the memory order channels_last.
        x = x.permute(0, x.dim() - 1, *range(1, x.dim() - 1)).to(torch.float32)
        if self.spreads:
            axes = tuple(range(1, x.dim()))
            low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
            x = (x - low) / (high - low).clamp(min=LEAST_SPAN)
        x = x * self.scale if self.scales else x
        return x + self.offset if self.shifts else x


def load_network(stage: StageSpec, classes: int, weights: bytes, name: str) -> PreprocessedNetwork:
    """Build a stage's network and give it its weights.

    Parameters
    ----------
    stage, classes
        From the card; an embedder is built without a head.
    weights
        Content of a safetensors file.
    name
        What messages call the file.

    Raises
    ------
    ModelCardError
        If the architecture is unknown or refuses its arguments.
    WeightsError
        If the file is damaged, or its tensors are not those of the architecture.
    """
    from wsiseg.model import networks

    network = networks.build(
        stage.weights.architecture,
        channels=tuple(len(spec.channels) for spec in stage.inputs),
        classes=0 if stage.kind == "embedder" else classes,  # features, as they enter a head
        arguments=stage.weights.arguments,
    )
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except SafetensorError as error:
        raise WeightsError(
            f"{name}: not a safetensors file: {error}; fetch the package again"
        ) from error
    except RuntimeError as error:  # torch lists every tensor; the first lines say enough
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"{name}: the weights do not fit {stage.weights.architecture} with {classes} classes: "
            f"{reason}; correct architecture, arguments or channels in model.json"
        ) from error
    return PreprocessedNetwork(network.eval(), stage).eval()
