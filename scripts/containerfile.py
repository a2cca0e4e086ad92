"""Reads a Containerfile: the instructions that ours uses, no others. What is not understood is an error."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_VARIABLE: Final = re.compile(r"\$\{([A-Z_]+)\}")
_OPTION: Final = re.compile(r"--([a-z-]+)=(\S+)\s+")
EXEC_FORM: Final = ("ENTRYPOINT", "CMD")
BUILDING: Final = ("ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "LABEL", "VOLUME", "USER")
RUNNING: Final = ("EXPOSE", "STOPSIGNAL", "HEALTHCHECK", *EXEC_FORM)
KNOWN: Final = frozenset((*BUILDING, *RUNNING))


class ContainerfileError(Exception):
    """An instruction that is not understood."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of them: its options (`--from=build`) and the rest, with variables replaced (but for RUN, the shell's)."""

    name: str
    options: dict[str, str]
    rest: str

    def words(self) -> list[str]:
        """The exec form's, or a list of words."""
        if self.rest.startswith("["):
            words: list[str] = json.loads(self.rest)
            return words
        if self.name in EXEC_FORM:
            raise ContainerfileError(f"{self.name} is not in exec form: signals would go to a shell")
        return shlex.split(self.rest)

    def pairs(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.words())


@dataclass(frozen=True, slots=True)
class Stage:
    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]

    def last(self, name: str) -> Instruction:
        found = self.all(name)
        if not found:
            raise ContainerfileError(f"no {name} in the stage of {self.base}")
        return found[-1]

    def environment(self) -> dict[str, str]:
        return {key: value for one in self.all("ENV") for key, value in one.pairs().items()}


def read(path: Path) -> list[Stage]:
    """Its stages; arguments have their defaults."""
    stages: list[Stage] = []
    before_all: dict[str, str] = {}
    arguments = before_all
    for name, text in _statements(path.read_text(encoding="utf-8")):
        instruction = _instruction(name, text, arguments)
        if name == "FROM":
            base, *alias = instruction.rest.split()
            stages.append(Stage(base, alias[1] if alias else None))
            arguments = dict(before_all)
        elif name == "ARG":
            key, _, default = instruction.rest.partition("=")
            arguments[key] = default
        elif not stages:
            raise ContainerfileError(f"{name} before FROM")
        else:
            stages[-1].instructions.append(instruction)
    return stages


def _statements(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]
    for name, _ in found:
        if name not in KNOWN:
            raise ContainerfileError(f"unknown instruction: {name}")
    return found


def _instruction(name: str, text: str, arguments: dict[str, str]) -> Instruction:
    options = {}
    while match := _OPTION.match(text):
        options[match[1]] = match[2]
        text = text[match.end() :]
    if name != "RUN":
        text = _VARIABLE.sub(lambda match: arguments[match[1]], text)
    return Instruction(name, options, text.strip())


def allowed(path: str, patterns: list[str]) -> bool:
    """Whether `.dockerignore`'s patterns let this path of the context in: the last one that says something counts."""
    verdict = True
    for pattern in patterns:
        keeps, bare = pattern.startswith("!"), pattern.removeprefix("!")
        if re.fullmatch(_expression(bare) + "(/.*)?", path):
            verdict = keeps
    return verdict


def _expression(pattern: str) -> str:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    return "".join(words.get(part, re.escape(part)) for part in parts)
