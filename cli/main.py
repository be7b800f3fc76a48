"""`wsiseg`: declares the commands, prints errors as one line."""

import gc
import logging
import signal
import sys
import warnings
from types import FrameType
from typing import Annotated

import typer

from wsiseg.errors import UsageError, WsisegError

from . import (
    cluster,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    import_,
    info,
    models,
    replay,
    report,
    segment,
    tiles,
    tissue,
    train,
    verify_geojson,
    view,
)
from .console import say

__all__ = ["app", "main"]

WrongUsage: type[typer.BadParameter] = typer.BadParameter.__mro__[1]
"""What the parser raises; typer gives no name to it."""

app = typer.Typer(
    name="wsiseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # plain help: importing rich would double the time it takes
)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("segment")(segment.segment)
app.command("embed")(embed.embed)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("view")(view.view)
app.command("replay")(replay.replay)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("info")(info.info)
app.command("tissue")(tissue.tissue)
app.command("tiles")(tiles.tiles)
app.add_typer(models.app, name="models")
app.add_typer(cluster.app, name="cluster")
app.command("verify-geojson")(verify_geojson.verify_geojson)


def _version(wanted: bool) -> None:
    if wanted:
        import wsiseg

        typer.echo(f"wsiseg {wsiseg.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Whole-slide images in, QuPath annotations out."""
    if debug:
        logging.getLogger("wsiseg").setLevel(logging.DEBUG)


def main() -> None:
    """Run the command line; exit 0 when all went well, 1 on failure, 2 on wrong usage.

    130 and 143 tell that Ctrl-C or SIGTERM ended it; both clean up first.
    """
    gc.set_threshold(100_000, 50, 50)  # imports leave no cycles: looking for them takes 5 %
    warnings.showwarning = _show_warning
    logging.getLogger("wsiseg").addHandler(_Messages())
    logging.getLogger("wsiseg.engine.resume").setLevel(logging.INFO)  # what goes on, and why not
    terminated = _interrupt_on_sigterm()
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (SystemExit, KeyboardInterrupt):
        if terminated:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    except WrongUsage as error:
        text, command = error.format_message(), error.ctx.command_path if error.ctx else "wsiseg"
        is_help = "\n" in text  # of a command that was called without anything
        line = f"error: {' '.join(text.split()).rstrip('.')}; see {command} --help"
        say(text if is_help else line, style=None if is_help else "red")
        raise SystemExit(2) from error
    except WsisegError as error:
        if "--debug" in sys.argv:
            raise
        say(f"error: {error}", style="red")
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        text = f"unexpected {type(error).__name__}: {error}; run `wsiseg --debug ...` and report it"
        say(text, style="red")
        raise SystemExit(1) from error
    finally:
        gc.freeze()  # nothing is left to be found: searching for it at exit takes 0.3 s


def _interrupt_on_sigterm() -> list[int]:
    """Have SIGTERM end a command as Ctrl-C does; the list is empty until it has come."""
    heard: list[int] = []

    signals = [signal.SIGTERM, *([] if sys.platform == "win32" else [signal.SIGALRM])]

    def interrupt(_: int, frame: FrameType | None) -> None:
        loading = frame and frame.f_code.co_filename.startswith("<frozen importlib")
        if loading and sys.platform != "win32":
            # an error raised here may be lost, and leaves the lock of imports taken: a hang
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # a second one must not end the cleaning up
        heard.append(signal.SIGTERM)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)
    return heard


class _Messages(logging.Handler):
    """Shows the package's log as one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; tracebacks come with --debug only."""
        if record.levelno < logging.WARNING:
            say(self.format(record))
        else:
            _show_warning(self.format(record))


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}", style="yellow")
