"""Where the episodes of a stage are played: in the trainer's process, or each in its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alignkit.environments.apart import Apart
from alignkit.environments.base import Environment
from alignkit.environments.lift import World, pays
from alignkit.recipe import schema


def environment_maker(settings: schema.Environment, beside: Path | None) -> tuple[Callable[[], Environment], bool]:
    """A function that makes one fresh Environment per call, and whether its episodes have a return.

    Raises ContentError when there is none, it does not take its options, or a tool has no schema.
    """
    world = World(
        name=settings.name,
        options=settings.options,
        tools=tuple((tool.name, tool.options) for tool in settings.tools),
        beside=beside,
        deadline_s=0.9 * settings.deadline_s,  # a tool that is too slow is told to the policy before the episode ends
        characters=settings.tool_characters,
    )
    if world.is_shipped if settings.isolate is None else not settings.isolate:
        make = world.factory()
        return make, pays(make())
    apart = Apart(world, memory_bytes=settings.memory_mib << 20)
    return apart, apart.pays
