"""Configurations of MONAI bundles, read and never run.

A bundle's JSON or YAML names Python classes (`_target_`), refers to other places (`@network_def`)
and holds Python expressions (`$...`). References are followed. Of expressions only literals,
references, `+`, `-` before a number and `a if b else c` are worked out here, from their syntax
tree; any other is refused with its text, where it is needed.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelCardError

__all__ = ["BundleConfig"]

REFERENCE = re.compile(r"@(?:[A-Za-z_]\w*)(?:(?:#|::)\w+)*")
MAX_DEPTH = 30
MAX_VALUES = 100_000
"""Values that a configuration is followed to, and parts of one: ten names that each stand for ten
times the next make ten thousand million of a few lines."""


@dataclass(frozen=True)
class BundleConfig:
    """One configuration file."""

    path: Path
    content: Mapping[str, Any]
    _followed: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @classmethod
    def read(cls, path: Path) -> "BundleConfig":
        """Read JSON or YAML.

        Raises
        ------
        ModelCardError
            If it cannot be read, or is neither.
        """
        try:
            text = path.read_bytes().decode()
            content = json.loads(text) if path.suffix == ".json" else _yaml(text)
        except OSError as error:
            raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelCardError(f"{path}: no configuration: {reason}; fetch it again") from error
        if not isinstance(content, dict):
            raise ModelCardError(f"{path}: no configuration: needed names with values")
        return cls(path, content)

    def get(self, name: str, default: object = None) -> Any:  # noqa: ANN401
        """Return the value of a top-level name, references followed."""
        return self.resolve(self.content[name]) if name in self.content else default

    def resolve(self, value: object, depth: int = 0) -> Any:  # noqa: ANN401
        """Return a value with all references in it followed.

        Raises
        ------
        ModelCardError
            If a reference leads nowhere or in a circle, an expression is more than a literal, or
            there are too many values.
        """
        if next(self._followed) > MAX_VALUES:
            raise self._too_large()
        if depth > MAX_DEPTH:
            raise ModelCardError(f"{self.path}: references go round in a circle")
        if isinstance(value, Mapping):
            return {str(key): self.resolve(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, depth + 1) for item in value]
        if not isinstance(value, str):
            return value
        if value.startswith("$"):
            return self._expression(value, depth)
        if REFERENCE.fullmatch(value):
            return self._follow(value, depth)
        if value.startswith("%"):
            raise ModelCardError(f"{self.path}: macro {value!r} is not read; write the value there")
        return value

    def _follow(self, reference: str, depth: int) -> Any:  # noqa: ANN401
        found: Any = self.content
        for part in re.split(r"#|::", reference.removeprefix("@")):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise ModelCardError(
                    f"{self.path}: {reference} leads nowhere: no {part!r} there"
                ) from error
        return self.resolve(found, depth + 1)

    def _expression(self, text: str, depth: int) -> Any:  # noqa: ANN401
        names: dict[str, str] = {}

        def named(match: re.Match[str]) -> str:
            names[f"_reference{len(names)}"] = match.group()
            return f"_reference{len(names) - 1}"

        try:
            tree = ast.parse(REFERENCE.sub(named, text[1:]).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise self._refused(text) from error
        return self._value(tree, names, text, depth)

    def _value(self, node: ast.expr, names: dict[str, str], text: str, depth: int) -> Any:  # noqa: ANN401
        def inner(part: ast.expr) -> Any:  # noqa: ANN401
            return self._value(part, names, text, depth)

        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in names:
            return self._follow(names[node.id], depth)
        if isinstance(node, ast.List | ast.Tuple):
            return [inner(part) for part in node.elts]
        if isinstance(node, ast.IfExp):
            return inner(node.body if inner(node.test) else node.orelse)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = inner(node.operand)
            if isinstance(value, int | float):
                return -value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = inner(node.left), inner(node.right)
            if type(left) is type(right) and isinstance(left, str | int | float | list):
                if isinstance(left, str | list) and len(left) + len(right) > MAX_VALUES:
                    raise self._too_large()
                return left + right
        raise self._refused(text)

    def _too_large(self) -> ModelCardError:
        return ModelCardError(
            f"{self.path}: references make more than {MAX_VALUES} values of it; write it without"
        )

    def _refused(self, text: str) -> ModelCardError:
        return ModelCardError(
            f"{self.path}: expression {text!r} is code and is not run; write its value there"
        )


def _yaml(text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
