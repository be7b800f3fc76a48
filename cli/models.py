"""`wsiseg models`: what can be run."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

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
def show(model: Annotated[str, typer.Argument(help="Name of a model, or its folder.")]) -> None:
    """Print what a model's card says: classes, spacing, figures, limits, licence."""
    from wsiseg.model import describe

    typer.echo(describe(model))


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Name of a model, or its folder.")],
) -> None:
    """Check card, weights and the recorded output of a model; exit 1 where one is wrong."""
    from wsiseg.model import check_model

    typer.echo(str(check_model(model)))


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="Folder of a model package, or foreign weights.")],
    name: Annotated[str | None, typer.Option(help="Name to give it.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Card of a file of weights; default: <file>.json.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of that name.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Convert TorchScript, which is code, in a subprocess.")
    ] = False,
) -> None:
    """Check a model package and copy it where it can be named."""
    from wsiseg.model import add_model

    typer.echo(add_model(path, name=name, card=card, trust=trust, overwrite=overwrite))
