"""XML that nobody vouches for: bounded in size, without entities of its own, read as a stream."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol
from xml.parsers import expat

from wsiseg.errors import AnnotationError

__all__ = ["MAX_BYTES", "Handler", "number", "read_xml", "root_of"]

MAX_BYTES = 1 << 30
MAX_DEPTH = 64
STEP = 1 << 20


class Handler(Protocol):
    """Told of each element as it begins and ends."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Take the start of an element."""
        ...

    def end(self, tag: str) -> None:
        """Take the end of an element."""
        ...


def read_xml(path: Path, handler: Handler) -> None:
    """Walk an XML file.

    Raises
    ------
    AnnotationError
        If it is not XML, declares entities (which could name other files, or grow without limit),
        is nested more than 64 deep or larger than 1 GiB, or cannot be read.
    """
    parser, depth = expat.ParserCreate(), 0

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise AnnotationError(f"{path}: XML nested more than {MAX_DEPTH} deep; not read")
        handler.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        handler.end(tag)

    def refuse(*_: object) -> NoReturn:
        raise AnnotationError(
            f"{path}: the XML declares entities, which annotations do not need and which could "
            "read other files; remove its DOCTYPE"
        )

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = parser.SkippedEntityHandler = refuse
    size = 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(STEP):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise AnnotationError(f"{path}: larger than {MAX_BYTES} bytes; split it")
                parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise AnnotationError(f"{path}: not XML ({error}); export it anew") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error


def root_of(path: Path) -> str:
    """Return the name of the outermost element."""

    class Root(Exception):  # noqa: N818 - ends the walk, no error
        pass

    class First:
        tag = ""

        def start(self, tag: str, attributes: Mapping[str, str]) -> None:
            self.tag = tag
            raise Root

        def end(self, tag: str) -> None:
            pass

    first = First()
    with suppress(Root):
        read_xml(path, first)
    return first.tag


def number(text: str | None, what: str) -> float:
    """Return a number of an attribute.

    Raises
    ------
    AnnotationError
        If there is none; `what` says of which file and object.
    """
    try:
        return float(text or "")
    except ValueError as error:
        raise AnnotationError(f"{what}: needed a number, found {text!r}; export it anew") from error
