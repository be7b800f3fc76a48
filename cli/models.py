"""`wsiseg models`: what can be run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from wsiseg.options import Backend, Precision

__all__ = ["app"]

Name = Annotated[str, typer.Argument(help="Name of a model, or its folder.")]

app = typer.Typer(no_args_is_help=True, help="List, show, check and add models.")


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """List the models that can be named."""
    import wsiseg

    for model in wsiseg.list_models():
        if as_json:
            typer.echo(json.dumps(model.to_dict()))
        else:
            typer.echo(f"{model.name} {model.version}  {', '.join(model.classes)}  {model.path}")


@app.command()
def show(model: Name) -> None:
    """Print what a model's card says: classes, spacing, figures, limits, licence."""
    from wsiseg.model import describe

    typer.echo(describe(model))


@app.command()
def check(
    model: Name,
    backend: Annotated[Backend, typer.Option(help="What runs the networks.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="float32; bfloat16 on a GPU; int8 on a CPU.")
    ] = "float32",
) -> None:
    """Check card, weights and the recorded output of a model; exit 1 where one is wrong."""
    from wsiseg.model import check_model

    report = check_model(model, backend=backend, device=device, precision=precision)
    typer.echo(str(report))


@app.command()
def quantize(
    model: Name,
    record: Annotated[
        bool, typer.Option("--record", help="Write the change into the model's card.")
    ] = False,
) -> None:
    """Make the int8 networks of a model and measure how they change its output.

    Compared on the patches of the model's check, which also calibrate: on other slides the change
    may be larger. `segment --precision int8` then runs them.
    """
    from wsiseg.model import find_model, measure_int8, record_int8

    changes = measure_int8(model)
    for stage, change in changes.items():
        typer.echo(f"{stage}: {change}")
    if record:
        record_int8(find_model(model), changes)


@app.command()
def add(
    path: Annotated[
        Path,
        typer.Argument(
            help="Model package; WSInfer folder; FAST pipeline (.fpl); folder with the two ONNX "
            "files of H2G-Net; folder of nnU-Net, MONAI or Raidionics; or a file of weights with "
            "a card."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name to give it.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Card of a file of weights; default: <file>.json.")
    ] = None,
    spacing: Annotated[
        float | None,
        typer.Option(min=0.01, help="µm per pixel of a FAST pipeline's patches."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of that name.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Run TorchScript or a pickle, which is code, once, apart."),
    ] = False,
    configuration: Annotated[
        str | None, typer.Option(help="nnU-Net: which of several, such as 3d_fullres.")
    ] = None,
    folds: Annotated[
        str, typer.Option(help="nnU-Net: such as 0,1; default: all that are there.")
    ] = "",
    checkpoint: Annotated[str, typer.Option(help="nnU-Net: final or best.")] = "final",
) -> None:
    """Check a model, made a package where it is none, and copy it where it can be named."""
    from wsiseg.model import Selection, add_model

    chosen = tuple(part.strip() for part in folds.split(",") if part.strip())
    folder = add_model(
        path,
        name=name,
        card=card,
        spacing_um=spacing,
        trust=trust,
        overwrite=overwrite,
        selection=Selection(configuration, chosen, checkpoint),
    )
    typer.echo(folder)


@app.command()
def export(
    model: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    stage: Annotated[str | None, typer.Option(help="Which classifier, if several.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a patch classifier for QuPath's WSInfer extension, as <its models>/user/<name>."""
    from wsiseg.model import write_wsinfer

    typer.echo(write_wsinfer(model, out, stage=stage, overwrite=overwrite))
