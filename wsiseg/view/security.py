"""Who is answered: this machine's browser, by the link that was printed.

The server listens on 127.0.0.1, but every program and every page in a browser of this machine can
reach that. So each request has to carry the token of the link; its `Host` has to be this machine by
name, or a foreign name that was made to point here could read answers (DNS rebinding); and what
changes something has to come from the page itself.
"""

import hmac
from collections.abc import MutableMapping
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HOSTS", "Guard"]

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine; any port, as a tunnel (`ssh -L`) may lead here from another one."""

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

OPENSEADRAGON_STYLE = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
"""The one rule that OpenSeadragon adds to the page."""

HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' {OPENSEADRAGON_STYLE}; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Lets requests through to an app that come by the link, without the token in their path.

    Parameters
    ----------
    app
        What answers them.
    token
        First part of every path.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)
        answer = self._app if refused is None else refused
        rest = scope["path"].partition("/")[2].partition("/")[2]
        inner = scope if refused is not None else {**scope, "path": f"/{rest}", "root_path": ""}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add(message, HEADERS)
            await send(message)

        await answer(inner, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if _host_name(headers.get(b"host", "")) not in HOSTS:
            return _refuse(421, "this server answers to 127.0.0.1 and localhost only")
        if scope["method"] in CHANGING and not _is_from_page(headers):
            return _refuse(403, "changes are taken from the viewer's own page only")
        given = scope["path"].lstrip("/").partition("/")[0].encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._token):
            return _refuse(403, "no or a wrong token: open the link that `wsiseg view` printed")
        return None


def _host_name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() and port.isascii() else host.lower()


def _is_from_page(headers: MutableMapping[bytes, str]) -> bool:
    """Return whether a browser sent it for a page of this server, or no browser did."""
    if headers.get(b"sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = headers.get(b"origin")
    return origin is None or origin.partition("://")[2] == headers.get(b"host")


def _refuse(status: int, why: str) -> PlainTextResponse:
    return PlainTextResponse(why + "\n", status, headers={"cache-control": "no-store"})


def _add(message: MutableMapping[str, Any], headers: dict[str, str]) -> None:
    there = {name for name, _ in message["headers"]}
    more = [(k.encode(), v.encode()) for k, v in headers.items() if k.encode() not in there]
    message["headers"] = [*message["headers"], *more]
