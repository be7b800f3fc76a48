"""Groups of patches that look alike to a network that is not trained any more."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.model import Package
from wsiseg.model.networks import features
from wsiseg.model.preprocessed import load_network
from wsiseg.train.clusters import Clusters, fit_clusters

__all__ = ["Groups", "fit_groups"]


class Groups(nn.Module):
    """From the inputs of a patch classifier to the group of each patch, int64 (n,)."""

    def __init__(self, frozen: nn.Module, clusters: Clusters) -> None:
        super().__init__()
        self.frozen, self.clusters = frozen, clusters

    @torch.no_grad()
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the group of each patch."""
        groups: torch.Tensor = self.clusters(self.frozen(*inputs))
        return groups


def fit_groups(
    package: Path,
    batches: Iterable[tuple[torch.Tensor, ...]],
    *,
    device: torch.device,
    count: int,
    seed: int,
) -> Groups:
    """Group patches by what the first stage of a model sees in them.

    Parameters
    ----------
    package
        Folder of a model whose first stage is a patch classifier with the same inputs.
    batches
        Inputs of that network, as it takes them; a thousand patches or so.
    count
        Number of groups; H2G-Net has 10 (doi:10.3389/fmed.2022.971873, design V).
    seed
        Decides the first centres.

    Raises
    ------
    TrainingError
        If that stage is no patch classifier, or there are too few different patches.
    """
    known = Package.open(package)
    stage = known.card.stages[0]
    if stage.kind != "classifier":
        raise TrainingError(
            f"{package}: stage {stage.name!r} is a {stage.kind}; patches are grouped by a "
            "classifier: name another package"
        )
    weights = known.read_weights(stage)
    network = load_network(stage, len(known.card.classes), weights, str(package)).network
    frozen = features(network).to(device)
    seen = torch.cat([frozen(*inputs).cpu() for inputs in batches])
    return Groups(frozen, fit_clusters(seen, count=count, seed=seed)).to(device)
