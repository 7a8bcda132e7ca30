"""A YAML file as data, with the place of each key kept, so that a mistake can be pointed at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from guard.errors import ConfigError, GuardError

KeyPath: TypeAlias = Sequence[str | int]

_STRING_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_EXAMPLE = "models: {my-model: {profile: my-profile/, model: my-model.onnx}}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a file. `line` and `column` count from 1; `where` is the dotted key, "" for the file.

    As text it is `file:line: problem; remedy`.
    """

    path: Path
    line: int
    column: int
    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}; {self.remedy}"

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.path}:{self.line}"


class PolicyUnusable(ConfigError):
    """All that is wrong with a policy file and with what it names, each with its place, `file:line`.

    It ends a command with the exit code of the first. A message has a line for each, or more where it lists commands.
    """

    code = "policy"

    def __init__(self, problems: Sequence[tuple[str, GuardError]]) -> None:
        self.problems = tuple(problems)
        self.mistakes = tuple(f"{at}: {error}" for at, error in problems)
        super().__init__("\n".join(self.mistakes))
        self.exit_code = next((error.exit_code for _, error in problems), ConfigError.exit_code)


class Unreadable(Exception):
    """Nothing in the file can be checked further, because of this mistake. It never leaves this package."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


class _Loader(yaml.SafeLoader):
    """The safe loader, which also reads 1e-2 as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Document:
    """A mapping read from a YAML file: `data`, in which all keys are text, and the place of each of its keys.

    Raises:
        Unreadable: no file, not YAML, empty, or not a mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            loader = _Loader(path.read_bytes())
            node = loader.get_single_node()
            if node is None:
                raise self._unreadable("the file is empty", f"name the models to guard, for example {_EXAMPLE}")
            if not isinstance(node, yaml.MappingNode):
                raise self._unreadable("the file is not a mapping of keys to values", f"begin with {_EXAMPLE}")
            self._root: yaml.MappingNode = node
            self.duplicates = list(self._read_keys(node, (), set()))
            self.data: dict[str, Any] = loader.construct_document(node)
        except OSError as exc:
            raise self._unreadable(
                f"the file can't be read ({exc.strerror})", "check the path and its permissions"
            ) from exc
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise self._unreadable(
                f"this is not YAML: {exc.problem or exc.context}",
                "check the indentation (spaces, no tabs), colons and quotes here and on the line before",
                line,
                column,
            ) from exc
        except (yaml.YAMLError, ValueError, RecursionError) as exc:
            raise self._unreadable(
                f"this is not YAML that guard can read ({str(exc).splitlines()[0]})",
                "write plain text in UTF-8, and put values that YAML takes for something else in quotes",
            ) from exc

    def mistake(self, where: KeyPath, problem: str, remedy: str) -> Mistake:
        """A mistake at a key, or at the nearest section around it where the key isn't there."""
        mark = self._root.start_mark
        for key, _ in self._steps(where):
            mark = key.start_mark
        return Mistake(self.path, mark.line + 1, mark.column + 1, dotted(where), problem, remedy)

    def text(self, where: KeyPath) -> str:
        """The value of a key as a person wrote it: `off`, where YAML reads False."""
        node: yaml.Node = self._root
        for _, value in self._steps(where):
            node = value
        if isinstance(node, yaml.ScalarNode):
            return f"`{node.value}`"
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"

    def _steps(self, where: KeyPath) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Key and value node of each step of a path, as far as the file has it."""
        node: yaml.Node = self._root
        for part in where:
            if not isinstance(node, yaml.MappingNode):
                return
            # The last one of that name is the one that counts: merged keys come first.
            found = [pair for pair in node.value if pair[0].value == part]
            if not found:
                return
            yield found[-1]
            node = found[-1][1]

    def _read_keys(self, node: yaml.Node, where: tuple[str, ...], seen: set[int]) -> Iterator[Mistake]:
        """Make all keys text, whatever else YAML sees in `on` or `5`, and yield the duplicates."""
        if not isinstance(node, yaml.MappingNode) or id(node) in seen:
            return
        seen.add(id(node))
        first: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.tag != _MERGE_TAG:
                key.tag = _STRING_TAG
            inner, line = (*where, key.value), key.start_mark.line + 1
            if key.value in first:
                yield Mistake(
                    self.path,
                    line,
                    key.start_mark.column + 1,
                    dotted(inner),
                    f"{dotted(inner)} was given on line {first[key.value]} already",
                    "keep one of the two",
                )
            first.setdefault(key.value, line)
            yield from self._read_keys(value, inner, seen)

    def _unreadable(self, problem: str, remedy: str, line: int = 1, column: int = 1) -> Unreadable:
        return Unreadable(Mistake(self.path, line, column, "", problem, remedy))


def dotted(where: KeyPath) -> str:
    """`models.digits.mode`, as people write a key inside keys."""
    return ".".join(str(part) for part in where)
