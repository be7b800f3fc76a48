"""How Gson and the JDK turn JSON values into text and numbers; `None` where they raise."""

import math
import re
import uuid

__all__ = [
    "as_boolean",
    "as_double",
    "as_int",
    "as_string",
    "as_uuid",
    "is_primitive",
    "parse_double",
    "strip",
]

DOUBLE = re.compile(
    r"[+-]?(NaN|Infinity|((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[fFdD]?))", flags=re.ASCII
)
INTEGER = re.compile(r"[+-]?\d{1,10}", flags=re.ASCII)
CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UUID_PARTS = re.compile(r"[+-]?[0-9a-fA-F]{1,15}", flags=re.ASCII)
UUID_BITS = (32, 16, 16, 16, 48)
NOT_JAVA_SPACE = frozenset("\u00a0\u2007\u202f\u0085")
"""Python strips these, `String.strip` does not."""


def is_primitive(value: object) -> bool:
    """Tell whether a JSON value is a string, a number or a boolean."""
    return isinstance(value, str | int | float)


def as_string(value: object) -> str | None:
    """Return what `JsonElement.getAsString` gives."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if is_primitive(value):
        return str(value)
    return as_string(value[0]) if isinstance(value, list) and len(value) == 1 else None


def as_double(value: object) -> float | None:
    """Return what `JsonElement.getAsDouble` gives."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _float(value)
    if isinstance(value, str):
        return parse_double(value)
    return as_double(value[0]) if isinstance(value, list) and len(value) == 1 else None


def as_int(value: object) -> int | None:
    """Return what `JsonElement.getAsInt` gives: fractions cut off, 32 bits kept."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) else None
    elif isinstance(value, str):
        value = int(value) if INTEGER.fullmatch(value) and abs(int(value)) < 2**31 else None
    elif isinstance(value, list):
        return as_int(value[0]) if len(value) == 1 else None
    return (value + 2**31) % 2**32 - 2**31 if isinstance(value, int) else None


def as_boolean(value: object) -> bool:
    """Return what `JsonPrimitive.getAsBoolean` gives: anything but `true` is false."""
    return str(value).lower() == "true"


def parse_double(text: str) -> float | None:
    """Return what `Double.parseDouble` gives."""
    text = text.strip("".join(map(chr, range(33))))
    if not DOUBLE.fullmatch(text):
        return None
    return _float(text.rstrip("fFdD") if text[-1] in "fFdD" else text)


def as_uuid(text: str) -> str | None:
    """Return the UUID that `UUID.fromString` makes of a text, in its usual spelling."""
    if CANONICAL_UUID.fullmatch(text):
        return text
    parts = text.split("-")
    if len(text) > 36 or len(parts) != 5 or not all(map(UUID_PARTS.fullmatch, parts)):
        return None
    number = 0
    for part, bits in zip(parts, UUID_BITS, strict=True):
        number = (number << bits) | (int(part, 16) & ((1 << bits) - 1))
    return str(uuid.UUID(int=number))


def strip(text: str) -> str:
    """Return what `String.strip` gives."""
    start, stop = 0, len(text)
    while start < stop and _is_space(text[start]):
        start += 1
    while stop > start and _is_space(text[stop - 1]):
        stop -= 1
    return text[start:stop]


def _is_space(character: str) -> bool:
    return character.isspace() and character not in NOT_JAVA_SPACE


def _float(value: float | str) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if not str(value).startswith("-") else -math.inf
