"""Which program a folder comes from."""

from pathlib import Path

from wsiseg.model.importers.imported import Imported, Selection
from wsiseg.model.importers.monai_bundle import import_bundle, is_bundle
from wsiseg.model.importers.nnunet import import_nnunet, is_nnunet
from wsiseg.model.importers.raidionics import import_raidionics, is_raidionics

__all__ = ["import_folder"]


def import_folder(
    folder: Path, *, name: str, selection: Selection, trust: bool = False
) -> Imported | None:
    """Return card and weights of a model of another program; `None` where it is none.

    Parameters
    ----------
    folder
        A result folder of nnU-Net v2, a bundle of MONAI, or a model of Raidionics.
    name
        Name for the card.
    selection
        What to take where there is more than one of it.
    trust
        Whether a checkpoint that holds more than data may be unpickled.

    Raises
    ------
    ModelCardError
        If it says something that a card cannot say; names it.
    WeightsError
        If weights are missing, unsafe, or not those of the network.
    """
    if is_raidionics(folder):
        return import_raidionics(folder, name=name)
    if is_bundle(folder):
        return import_bundle(folder, name=name, trust=trust)
    if is_nnunet(folder):
        return import_nnunet(folder, name=name, selection=selection, trust=trust)
    return None
