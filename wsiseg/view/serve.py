"""From folders to a link: the viewer, running on this machine."""

import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from wsiseg.errors import RunError, WsisegError
from wsiseg.view.build import ready_page
from wsiseg.view.results import Shown, find_shown

__all__ = ["serve"]

HOST = "127.0.0.1"
BACKLOG = 256
"""Connections that wait to be taken."""


def serve(
    outs: Sequence[Path],
    slides: Sequence[Path] = (),
    *,
    port: int = 0,
    corrections: Path | None = None,
    ready: Callable[[str], None],
) -> None:
    """Show results in the browser until Ctrl-C.

    Parameters
    ----------
    outs
        Folders of results or of runs; with two of them, results of one slide can be compared.
    slides
        Where slides are that were moved since.
    port
        Of 127.0.0.1; 0 takes a free one.
    corrections
        The folder where corrections go; default: each into its own result.
    ready
        Called with the link once it can be opened.

    Raises
    ------
    RunError
        If there is no result, the port is taken, or what the viewer needs is missing.
    """
    try:
        import uvicorn

        from wsiseg.view.server import Viewer, make_app
    except ImportError as error:
        raise RunError(
            f"the viewer needs {error.name}, which is not installed: pip install 'wsiseg[view]'"
        ) from error
    page = ready_page()
    with tempfile.TemporaryDirectory(prefix="wsiseg-view-", ignore_cleanup_errors=True) as work:
        shown = find_shown(outs, slides, workspace=Path(work))
        token = secrets.token_urlsafe(24)
        app = make_app(Viewer(shown, page, corrections), token)
        threading.Thread(target=_warm, args=(shown[0],), daemon=True).start()
        with _listening(port) as listener:
            ready(f"http://{HOST}:{listener.getsockname()[1]}/{token}/")
            settings = uvicorn.Config(
                app, log_level="error", access_log=False, lifespan="off", ws="none", http="h11",
                server_header=False, timeout_graceful_shutdown=1, timeout_keep_alive=60,
            )  # fmt: skip
            uvicorn.Server(settings).run(sockets=[listener])


def _warm(shown: Shown) -> None:
    """Open the slide that the page shows first, and load what that takes, while the page loads."""
    with suppress(WsisegError):
        if not shown.is_volume:
            shown.tiles.jpeg(0, 0, 0)


def _listening(port: int) -> socket.socket:
    # named TCP, or asyncio leaves its delays on: 40 ms for each answer
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise RunError(f"port {port}: cannot be used: {error}; choose another --port") from error
    return listener
