"""`alignkit check RECIPE --device`: the bytes of every phase, and the cure where a device has too few."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from alignkit.cli.output import print_json, print_table
from alignkit.errors import AlignkitError
from alignkit.recipe.lookup.find import find
from alignkit.recipe.read import read_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alignkit.run.memory.need import Need

ROLES = ("weights", "gradients", "optimizer", "activations", "logits and head", "reference", "critic",
         "target critic", "engine weights", "engine cache", "engine process", "lent weights", "communication",
         "overhead")  # fmt: skip


def check_device(target: str, overrides: list[str], device: str, launch: str | None, *, as_json: bool) -> None:
    """Prints what the recipe needs on the device; exit 1 when it is not there."""
    from alignkit.parallel.memory.device import Device
    from alignkit.parallel.memory.sharding import Sharding
    from alignkit.run.launch.deepspeed_file import sharding_of

    recipe, wanted = read_recipe(target, overrides), Device.parse(device)
    profile = launch or recipe.launch
    beside = recipe.file.parent if recipe.file else None
    processes, settings = sharding_of(find("launch", profile, beside=beside)) if profile else (1, None)
    count = (wanted.count or processes) if profile else 1
    if count is None:
        raise AlignkitError(
            f"--device {device}: launch profile '{profile}' has a process for each: say x8 for 8 of them"
        )
    sharding = Sharding.of(settings, count)
    from alignkit.run.memory.cures import cures
    from alignkit.run.memory.need import needs

    found = needs(recipe, wanted, sharding)
    misfits = [need for need in found if not need.fits]
    if not as_json:
        for need in found:
            _print_need(need)
    ways = []
    if misfits:
        worst = max(misfits, key=lambda need: need.bytes)
        for cure in cures(target, overrides, wanted, sharding, worst):
            ways.append(cure)
            if not as_json:
                typer.echo(f"  {cure.change}: {_gb(cure.bytes)} GB, {'fits' if cure.fits else 'does not fit'}")
    if as_json:
        print_json({
            "ok": not misfits, "recipe": str(recipe.file), "device": asdict(wanted), "sharding": asdict(sharding),
            "stages": [need.as_json() for need in found], "cures": [asdict(cure) for cure in ways],
        })  # fmt: skip
    if misfits:
        raise typer.Exit(1)


def _print_need(need: Need) -> None:
    typer.echo(f"stage {need.stage}, GB on the device that needs the most")
    roles = [role for role in ROLES if any(held.get(role) for held in need.phases.values())]
    print_table(["phase", *roles, "total"], [_row(phase, held, roles) for phase, held in need.phases.items()])
    for note in need.notes:
        typer.echo(f"  {note}")
    has = f"{need.peak} needs the most, {_gb(need.bytes)} GB of {_gb(need.size)}"
    typer.echo(f"  {has}: {'it fits' if need.fits else 'it does not fit'}")


def _row(phase: str, held: dict[str, int], roles: Sequence[str]) -> list[str]:
    return [phase, *(_gb(held[role]) if held.get(role) else "" for role in roles), _gb(sum(held.values()))]


def _gb(size: Any) -> str:
    return f"{size / 1e9:.1f}"
