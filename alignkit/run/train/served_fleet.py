"""A run whose replicas are servers: it listens, they register themselves, and it begins when enough of them have."""

from __future__ import annotations

import os
from pathlib import Path

from alignkit.engines.fleet import Fleet
from alignkit.engines.servers.description import Description, files_of
from alignkit.engines.servers.registry import Registry
from alignkit.engines.vllm.arguments import Settings
from alignkit.errors import RecipeError
from alignkit.recipe.schema import Recipe
from alignkit.rewards.serve.listener import TOKEN_VARIABLE, Address, Listener
from alignkit.weights.sender import Sender


def served_fleet(
    recipe: Recipe,
    model: Path,
    sender: Sender,
    *,
    max_model_len: int,
    settings: Settings,
) -> Fleet:
    """The fleet, when `engine.replicas` servers hold the weights. model: the folder of its config.
    sender: where the weights lie.

    Raises RecipeError without a token or where `engine.listen` cannot be used, EngineError when too few servers come.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise RecipeError(f"engine.placement: servers need a token of 16 characters or more: set {TOKEN_VARIABLE}")
    listener = Listener(_address(recipe))
    try:
        from alignkit.engines.servers.app import fleet_app
    except ModuleNotFoundError as error:
        raise RecipeError(f"engine.placement: servers need {error.name}: pip install fastapi uvicorn httpx") from error
    engine = recipe.stages[-1].rollouts.engine
    description = Description(
        engine=engine,
        dtype=recipe.model.dtype,
        max_model_len=max_model_len,
        seed=recipe.seed,
        settings=settings.as_json(),
        files=files_of(model),
        table=sender.told()["table"],
    )
    registry = Registry(description, sender, version=0, token=token, ca_file=recipe.engine.certificate)
    app = fleet_app(registry, token)
    listener.bind()
    listener.start(app)
    registry.close_too(listener.stop)
    fleet = Fleet(registry, sender, patience_s=recipe.engine.startup_s)
    try:
        registry.wait_for(recipe.engine.replicas, recipe.engine.startup_s)
    except BaseException:
        fleet.close()
        raise
    return fleet


def _address(recipe: Recipe) -> Address:
    host, _, port = recipe.engine.listen.rpartition(":")
    certificate, key = (Path(file) if file else None for file in (recipe.engine.certificate, recipe.engine.key))
    return Address(host=host.strip("[]"), port=int(port), certificate=certificate, key=key)
