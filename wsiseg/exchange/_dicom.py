"""What all DICOM objects written here share: codes of classes, who made them."""

from collections.abc import Mapping
from typing import Any

from wsiseg.annotations import AnnotationClass
from wsiseg.errors import RunError

__all__ = ["CHARACTERS", "MAKER", "algorithm", "kind", "load_highdicom", "short_text"]

MAKER = "wsiseg"

KNOWN: Mapping[str, tuple[str, str]] = {
    "tumor": ("108369006", "Neoplasm"),
    "tumour": ("108369006", "Neoplasm"),
    "necrosis": ("6574001", "Necrosis"),
}
ORGANS: Mapping[str, tuple[str, str]] = {
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Bladder"),
    "brain": ("12738006", "Brain"),
    "esophagus": ("32849002", "Esophagus"),
    "gallbladder": ("28231008", "Gallbladder"),
    "heart": ("80891009", "Heart"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "kidney": ("64033007", "Kidney"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "lymph node": ("59441001", "Lymph Node"),
    "pancreas": ("15776009", "Pancreas"),
    "prostate": ("41216001", "Prostate"),
    "spinal cord": ("2748008", "Spinal cord"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
    "trachea": ("44567001", "Trachea"),
}
"""Classes whose SNOMED CT code is certain; all others get a code of our own scheme."""

SCHEME = "99WSISEG"
LONGEST_MEANING = 64

CHARACTERS = "ISO_IR 192"
"""UTF-8, whatever the images are in: classes are named in any script."""


def load_highdicom() -> Any:  # noqa: ANN401
    """Return the package.

    Raises
    ------
    RunError
        If it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise RunError(
            'highdicom is not installed; install it with: pip install "wsiseg[dicom]"'
        ) from error
    return highdicom


def kind(item: AnnotationClass, number: int, prefix: str) -> dict[str, Any]:
    """Return category and type of a class as codes."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    name = item.name.strip().lower().replace("_", " ")
    meaning = short_text(item.name)
    if name in KNOWN:
        category = codes.SCT.MorphologicallyAbnormalStructure
        code = Code(KNOWN[name][0], "SCT", KNOWN[name][1])
    elif name in ORGANS:
        category = codes.SCT.AnatomicalStructure
        code = Code(ORGANS[name][0], "SCT", ORGANS[name][1])
    else:
        category, code = codes.SCT.Tissue, Code(f"C{number}", SCHEME, meaning)
    return {f"{prefix}_category": category, f"{prefix}_type": code}


def algorithm(highdicom: Any, record: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return which model made it, by the record of its run."""
    from pydicom.sr.codedict import codes

    model = record.get("model", {})
    return highdicom.AlgorithmIdentificationSequence(
        name=short_text(str(model.get("name", MAKER))),
        version=short_text(str(model.get("version", "unknown"))),
        family=codes.DCM.ArtificialIntelligence,
    )


def short_text(text: str) -> str:
    """Return a text as DICOM takes it: of 64 characters, without the one that separates values."""
    return text.replace("\\", "/")[:LONGEST_MEANING]
