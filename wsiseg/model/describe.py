"""A card in words: for `models show` and for the README of a package."""

from wsiseg.draw.notebook import panel, swatch, text_table
from wsiseg.model.card import InputSpec, ModelCard, StageSpec

__all__ = ["card_html", "describe_card", "readme"]


def describe_card(card: ModelCard) -> dict[str, str]:
    """Return what a card says, a line of text per subject, in reading order."""
    said = {
        "model": card.title,
        "classes": ", ".join(c.name for c in card.classes) or "none: gives a vector per patch",
    }
    for i, stage in enumerate(card.stages, start=1):
        said[f"stage {i}"] = _stage(stage)
    if card.threshold is not None:
        said["threshold"] = f"{card.classes[1].name} at or above {card.threshold:g}"
    if card.calibration.method != "none":
        values = ", ".join(f"{value:g}" for value in card.calibration.values)
        said["calibration"] = f"{card.calibration.method} {values}"
    origin = card.provenance
    said |= {f"metric {name}": str(value) for name, value in origin.metrics.items()}
    said |= {
        "intended use": origin.intended_use,
        "limits": origin.limits,
        "trained on": origin.trained_on,
        "license": origin.license,
        "citation": origin.citation or "none given",
    }
    return said


def readme(card: ModelCard) -> str:
    """Return the README of a package, Markdown."""
    lines = [f"- **{subject}**: {text}" for subject, text in describe_card(card).items()]
    return f"# {card.name}\n\n" + "\n".join(lines) + "\n"


def card_html(card: ModelCard, running: str = "") -> str:
    """Return what a notebook shows of a card: its words and its classes in their colours."""
    said = {k: v for k, v in describe_card(card).items() if k not in {"model", "classes"}}
    classes = [(i, swatch(c.color, c.name)) for i, c in enumerate(card.classes)]
    return panel(
        card.title,
        running,
        text_table(classes, words=True) if classes else "",
        text_table(list(said.items()), words=True),
    )


def _stage(stage: StageSpec) -> str:
    inputs = " and ".join(_input(spec) for spec in stage.inputs)
    largest = stage.output.max_patch
    windows = f", on windows up to {' x '.join(map(str, largest))} px" if largest else ""
    return f"{stage.name}: {stage.kind} {stage.weights.architecture}, reads {inputs}{windows}"


def _input(spec: InputSpec) -> str:
    patch = " x ".join(map(str, spec.patch))
    stride = f", stride {' x '.join(map(str, spec.stride))}" if spec.stride else ""
    return f"{spec.source} ({'/'.join(spec.channels)}, {patch} px{_spacing(spec)}{stride})"


def _spacing(spec: InputSpec) -> str:
    if spec.spacing_um is not None:
        return " at " + " x ".join(f"{value:g}" for value in spec.spacing_um) + " µm/px"
    low, high = spec.spacing_range_um or (0.0, 0.0)
    return f" of the whole slide at {low:g} to {high:g} µm/px"
