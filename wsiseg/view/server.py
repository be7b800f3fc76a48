"""The viewer's answers: pages, descriptions, tiles, corrections.

No part of a path names a file: results, layers and tiles are numbers, and the page's files are
looked up among those that were found at the start.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from wsiseg.errors import UsageError, WsisegError
from wsiseg.machine import usable_cores
from wsiseg.view.cache import ByteCache
from wsiseg.view.corrections import Corrections
from wsiseg.view.describe import describe_shown, list_shown
from wsiseg.view.layers import COLOR_MAPS, class_palette, color_palette
from wsiseg.view.objects import ObjectIndex
from wsiseg.view.outlines import draw_tile, outline_palette
from wsiseg.view.places import at_place, describe_object, list_objects
from wsiseg.view.png import Palette, packed, picture
from wsiseg.view.results import ANNOTATIONS, TISSUE, Shown
from wsiseg.view.revise import revise
from wsiseg.view.security import Guard
from wsiseg.view.thumbnails import thumbnail
from wsiseg.view.volumes import volume_file

__all__ = ["Viewer", "make_app"]

CACHED_BYTES = 128_000_000
"""Encoded tiles that are kept."""

DIGITS = 9
"""Of a number in a path or query: enough for any tile, and never slow to read."""

BODY_BYTES = 4_000_000
"""The longest correction that is taken."""

STEMS = (ANNOTATIONS, TISSUE)
TISSUE_COLOR = (0, 114, 178)

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
KEEP = {"cache-control": "private, max-age=86400"}
"""For tiles, whose URL tells the result's time."""

FRESH = {"cache-control": "no-store"}

T = TypeVar("T")


def make_app(viewer: "Viewer", token: str) -> Guard:
    """Return the app that answers to those who know the token."""
    tile = "{level}/{row}/{column}"
    routes = [
        Route("/api/results", viewer.results),
        Route("/api/{s}", viewer.description),
        Route("/api/{s}/thumbnail", viewer.thumbnail),
        Route(f"/api/{{s}}/slide/{tile}", viewer.slide_tile),
        Route(f"/api/{{s}}/layer/{{layer}}/{tile}", viewer.layer_tile),
        Route(f"/api/{{s}}/outlines/{{stem}}/{tile}", viewer.outline_tile),
        Route("/api/{s}/at", viewer.at),
        Route("/api/{s}/objects/{stem}", viewer.objects),
        Route("/api/{s}/object/{row}", viewer.object),
        Route("/api/{s}/corrections", viewer.corrections, methods=["GET"]),
        Route("/api/{s}/corrections", viewer.correct, methods=["POST"]),
        Route("/api/{s}/corrections/{id}", viewer.take_back, methods=["DELETE"]),
        Route("/api/{s}/volume/{file}", viewer.volume_file),
        Route("/{file:path}", viewer.page_file),
    ]
    handlers: Mapping[Any, Any] = {WsisegError: _told}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token)


class Viewer:
    """What is shown, and how requests for it are answered.

    Parameters
    ----------
    shown
        The results.
    page
        Name -> file of the built page.
    corrections
        The folder where corrections go; `None`: each into its own result.
    """

    def __init__(
        self, shown: Sequence[Shown], page: Mapping[str, Path], corrections: Path | None = None
    ) -> None:
        self._shown = shown
        self._page = page
        self._folder = corrections
        self._cache = ByteCache(CACHED_BYTES)
        self._workers = anyio.CapacityLimiter(usable_cores() + 2)

    async def page_file(self, request: Request) -> Response:
        """Return a file of the page."""
        name = request.path_params["file"] or "index.html"
        path = self._page.get(name)
        if path is None:
            raise HTTPException(404, "no such page")
        content = await self._aside(path.read_bytes)
        kept = FRESH if name == "index.html" else KEEP
        return Response(content, media_type=KINDS.get(path.suffix), headers=kept)

    async def results(self, _: Request) -> Response:
        """Return the list of results."""
        return _json(await self._aside(lambda: list_shown(self._shown)))

    async def description(self, request: Request) -> Response:
        """Return what is known of one result."""
        one = self._one(request)
        saved = str(self._corrections_path(one))
        return _json(await self._aside(lambda: describe_shown(one, saved)))

    async def thumbnail(self, request: Request) -> Response:
        """Return a small picture."""
        one = self._one(request)
        content = await self._tile(
            request, (request.path_params["s"], "small"), lambda: thumbnail(one)
        )
        return Response(content, media_type="image/jpeg", headers=KEEP)

    async def slide_tile(self, request: Request) -> Response:
        """Return a tile of the slide."""
        one, place = self._one(request), _place(request)
        key = (request.path_params["s"], "slide", place)
        content = await self._tile(request, key, lambda: one.tiles.jpeg(*place))
        return Response(content, media_type="image/jpeg", headers=KEEP)

    async def layer_tile(self, request: Request) -> Response:
        """Return a tile of a heatmap, of uncertainty or of the mask."""
        one, place = self._one(request), _place(request)
        layers = one.layers
        number = _number(request.path_params["layer"], len(layers))
        layer, query = layers[number], request.query_params
        if layer.kind == "mask":
            palette = class_palette([color for _, color in layer.classes], _hidden(query))
        else:
            name = query.get("map", COLOR_MAPS[0])
            if name not in COLOR_MAPS:
                raise HTTPException(400, f"map: needed one of {', '.join(COLOR_MAPS)}")
            palette = color_palette(name, _number(query.get("least", "0"), 101))
        key = (request.path_params["s"], number, place)
        pixels = await self._tile(request, key, lambda: packed(layer.codes(*place)))
        return _picture(pixels, palette)

    async def outline_tile(self, request: Request) -> Response:
        """Return a tile of outlines."""
        one, place, stem = self._one(request), _place(request), _stem(request)
        index = await self._index(one, stem)
        colors = [color for _, color in index.classes] if stem == ANNOTATIONS else [TISSUE_COLOR]
        key = (request.path_params["s"], stem, place)
        pixels = await self._tile(
            request, key, lambda: packed(draw_tile(index, one.image.shape, *place))
        )
        return _picture(pixels, outline_palette(colors, _hidden(request.query_params)))

    async def at(self, request: Request) -> Response:
        """Return what lies at a place."""
        one = self._one(request)
        x, y = (_coordinate(request.query_params.get(axis, "")) for axis in "xy")
        return _json(await self._aside(lambda: at_place(one, x, y)))

    async def objects(self, request: Request) -> Response:
        """Return whether objects were read, and the first of them in an order."""
        one, stem, query = self._one(request), _stem(request), request.query_params
        index = await self._aside(lambda: one.objects(stem))
        if index is None:
            return _json({"ready": False})
        listed: Sequence[Any] = ()
        if "order" in query:
            listed = await self._aside(
                lambda: list_objects(
                    index,
                    by=query.get("by"),
                    descending=query["order"] != "ascending",
                    class_name=query.get("class"),
                )
            )
        classes = [{"name": name, "color": list(color)} for name, color in index.classes]
        about = {"count": len(index), "measurements": index.names, "classes": classes}
        return _json({"ready": True, **about, "listed": listed})

    async def object(self, request: Request) -> Response:
        """Return one object."""
        one = self._one(request)
        index = await self._index(one, ANNOTATIONS)
        row = _number(request.path_params["row"], len(index))
        return _json(await self._aside(lambda: describe_object(index, row)))

    async def corrections(self, request: Request) -> Response:
        """Return the corrections of a slide."""
        kept = await self._aside(lambda: self._corrections_of(self._one(request)).listed())
        return _json([correction.describe() for correction in kept])

    async def correct(self, request: Request) -> Response:
        """Enter a correction."""
        one, body = self._one(request), await _body(request)
        made = await self._aside(lambda: revise(one, self._corrections_of(one), body))
        return _json(made.describe())

    async def take_back(self, request: Request) -> Response:
        """Take a correction back."""
        one, id = self._one(request), request.path_params["id"]
        if not await self._aside(lambda: self._corrections_of(one).remove(id)):
            raise HTTPException(404, "no such correction")
        return _json({"removed": id})

    async def volume_file(self, request: Request) -> Response:
        """Return the scan or its labels."""
        one = self._one(request)
        kind = request.path_params["file"].partition(".")[0]
        path = await self._aside(lambda: volume_file(one, kind)) if one.is_volume else None
        if path is None or not path.is_file():
            raise HTTPException(404, "no such file")
        return FileResponse(path, media_type="application/octet-stream", headers=KEEP)

    def _one(self, request: Request) -> Shown:
        return self._shown[_number(request.path_params["s"], len(self._shown))]

    def _corrections_path(self, shown: Shown) -> Path:
        if self._folder is None:
            return shown.result.folder / "corrections.geojson"
        has_twin = sum(one.name == shown.name for one in self._shown) > 1
        folder = self._folder / shown.group if has_twin else self._folder
        return folder / f"{shown.name}.geojson"

    def _corrections_of(self, shown: Shown) -> Corrections:
        return Corrections(self._corrections_path(shown), shown.image, shown.colors)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Run work in one of a few threads."""
        return await anyio.to_thread.run_sync(work, limiter=self._workers)

    async def _index(self, shown: Shown, stem: str) -> ObjectIndex:
        index = await self._aside(lambda: shown.objects(stem))
        if index is None:
            raise HTTPException(503, "objects are being read", {"retry-after": "1"})
        return index

    async def _tile(
        self, request: Request, key: tuple[Any, ...], make: Callable[[], bytes]
    ) -> bytes:
        """Return a tile from the cache, or make it, unless nobody waits for it any more."""
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        async with self._workers:
            if await request.is_disconnected():
                raise HTTPException(408, "gone")
            try:
                content = await anyio.to_thread.run_sync(make)
            except LookupError as error:
                raise HTTPException(404, "no such picture") from error
        return self._cache.put(key, content)


def _told(_: Request, error: Exception) -> Response:
    """Answer with what failed: 400 where the request is to blame."""
    status = 400 if isinstance(error, UsageError) else 500
    return _json({"error": str(error)}, status)


def _json(content: object, status: int = 200) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json", headers=FRESH)


def _picture(pixels: bytes, palette: Palette) -> Response:
    return Response(picture(pixels, palette), media_type="image/png", headers=KEEP)


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "needed application/json")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES:
            raise HTTPException(413, f"needed at most {BODY_BYTES} bytes")
    return body


def _number(text: str, below: int) -> int:
    """Return a number in a path or query that is below another."""
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS and int(text) < below):
        raise HTTPException(404, "no such number")
    return int(text)


def _place(request: Request) -> tuple[int, int, int]:
    """Return level, row and column of a tile."""
    level, row, column = (
        _number(request.path_params[name], 10**DIGITS) for name in ("level", "row", "column")
    )
    return level, row, column


def _stem(request: Request) -> str:
    stem: str = request.path_params["stem"]
    if stem not in STEMS:
        raise HTTPException(404, "no such objects")
    return stem


def _coordinate(text: str) -> float:
    try:
        value = float(text[:32])
    except ValueError as error:
        raise HTTPException(400, "needed x and y in level-0 pixels") from error
    if not abs(value) < 10**DIGITS:
        raise HTTPException(400, "needed x and y in level-0 pixels")
    return value


def _hidden(query: Mapping[str, str]) -> frozenset[int]:
    """Return the numbers of hidden classes."""
    texts = query.get("hide", "").split(",")[:256]
    return frozenset(_number(text, 256) for text in texts if text)
