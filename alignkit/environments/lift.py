"""From an environment's section in a recipe to a factory of fresh episodes, with its options bound and its tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alignkit.environments.adapters.trl import TrlEnvironment, is_trl
from alignkit.environments.base import Environment
from alignkit.environments.tool_use import ToolUse
from alignkit.environments.toolbox import Toolbox
from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import did_you_mean, find, load
from alignkit.recipe.lookup.outline import function_options

ADAPTERS = "environments.adapters"


@dataclass(frozen=True, kw_only=True)
class World:
    """What episodes are played in, as the recipe says it; goes to other processes as plain data.

    name: on the shelf (`alignkit ls environments`), `./file.py:name` or `package.module:name`; a class or a function;
    None: the task itself, answered with tools. tools: names and options. beside: folder of the recipe.
    deadline_s: of the tool calls of a turn. characters: of a tool's result that the policy reads.
    """

    name: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    beside: Path | None = None
    deadline_s: float = 30.0
    characters: int = 8000

    @property
    def title(self) -> str:
        """What faults call it."""
        return self.name or ", ".join(name for name, _ in self.tools)

    @property
    def is_shipped(self) -> bool:
        """Whether all of it is alignkit's own code; an adapter is, and what it adapts is not."""
        named = [("tools", name) for name, _ in self.tools] + ([("environments", self.name)] if self.name else [])
        found = [find(kind, name, beside=self.beside) for kind, name in named]
        return all(one.is_shipped and ADAPTERS not in str(one.module) for one in found)

    def factory(self) -> Callable[[], Environment]:
        """A function that makes one fresh Environment per call.

        One is made and thrown away here, so that wrong options are an error before the first episode. Raises
        ContentError when there is none, it does not take the options, or it makes something else.
        """
        functions = [_tool(name, self._placed(options), self.beside) for name, options in self.tools]
        bounds: dict[str, Any] = {"deadline_s": self.deadline_s, "characters": self.characters}
        toolbox = Toolbox.of(functions, **bounds) if functions else None
        if self.name is None:
            if toolbox is None:
                raise ContentError("environment: has neither a name nor tools; give it one of the two")
            return partial(ToolUse, toolbox)
        make = _maker(self.name, self.options, self.beside)
        one = _made(self.name, self.options, make)
        if is_trl(one):
            TrlEnvironment(one, functions, **bounds)
            return lambda: TrlEnvironment(make(), functions, **bounds)
        if not isinstance(one, Environment):
            wanted = "`start` or `step` (or TRL's `reset`)"
            raise ContentError(f"environment '{self.name}' makes a {type(one).__name__}, which lacks {wanted}")
        return make if toolbox is None else lambda: ToolUse(toolbox, make())

    def _placed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, files beside the recipe by their whole path: episodes may be played from another folder."""
        folder = (self.beside or Path()).resolve()
        texts = {name: value for name, value in options.items() if isinstance(value, str) and len(value) < 1000}
        return {**options, **{name: str(folder / text) for name, text in texts.items() if (folder / text).is_file()}}


def find_environment(name: str, options: Mapping[str, Any], beside: Path | None = None) -> Callable[[], Environment]:
    """A function that makes one fresh Environment per call, as `World.factory` does."""
    return World(name=name, options=options, beside=beside).factory()


def pays(one: Environment) -> bool:
    """Whether episodes in it have a return; what has tools alone leaves that to the rewards."""
    return getattr(one, "pays", True)


def _maker(name: str, options: Mapping[str, Any], beside: Path | None) -> Callable[[], Any]:
    found = find("environments", name, beside=beside)
    known = function_options(found.path, found.attribute or found.name)
    for option in options:
        if known is not None and option not in known:
            raise ContentError(f"environment '{name}' has no option '{option}'{did_you_mean(option, known)}")
    return partial(load(found), **options)  # ty: ignore[invalid-argument-type]  # a non-callable raises when it is called


def _made(name: str, options: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # a user's environment may raise anything
        raise ContentError(f"environment '{name}' cannot be made with {dict(options)}: {error}") from error


def _tool(name: str, options: Mapping[str, Any], beside: Path | None) -> Callable[..., Any]:
    found: Any = load(find("tools", name, beside=beside))
    try:
        return found(**options) if options else found
    except Exception as error:  # a user's function may raise anything
        raise ContentError(f"tool '{name}' cannot be made with {dict(options)}: {error}") from error
