"""From a reward's name in a recipe to the Reward that scores, with its options bound."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import ContentError
from alignkit.recipe.lookup.find import did_you_mean, find, load
from alignkit.rewards.base import FunctionReward, Reward
from alignkit.rewards.serve.trl import TrlReward, is_trl_style


def find_reward(name: str, options: Mapping[str, Any], beside: Path | None = None) -> Reward:
    """The reward called `name`: on the shelf, `./file.py:name`, `package.module:name` or `trl:function`.

    Imports its file, so it is called in the pool's workers only. A class and a TRL `get_...` factory are called with
    the options; a function gets them as keyword arguments, after `(completion, task)` or beside TRL's lists.
    Raises ContentError when there is no such reward or it does not take the options.
    """
    found = find("rewards", name, beside=beside)
    target: Any = load(found)
    if inspect.isclass(target) or (found.origin == "trl" and found.name.startswith("get_")):
        _check_options(target, name, options, called_with=())
        target, options = target(**options), {}
    if isinstance(target, FunctionReward):
        _check_options(target.function, name, options, called_with=("completion", "task"))
        return FunctionReward(function=target.function, name=target.name, options={**target.options, **options})
    if isinstance(target, Reward):
        if options:
            raise ContentError(f"reward '{name}' is an object and takes no options; got {', '.join(options)}")
        return target
    if not callable(target):
        raise ContentError(f"reward '{name}' is a {type(target).__name__}; wanted a function or a Reward")
    if is_trl_style(target):
        _check_options(target, name, options, called_with=None)
        return TrlReward(function=target, name=found.name, options=options)
    _check_options(target, name, options, called_with=("completion", "task"))
    return FunctionReward(function=target, name=found.name, options=options)


def _check_options(
    function: Callable, name: str, options: Mapping[str, Any], *, called_with: tuple[str, ...] | None
) -> None:
    """Wrong and missing options are errors before the first rollout. called_with: what else the function will be
    called with, by position; None when that depends on the data's columns."""
    signature = inspect.signature(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for option in options:
        if option not in signature.parameters and not takes_any:
            raise ContentError(f"reward '{name}' has no option '{option}'{did_you_mean(option, signature.parameters)}")
    if called_with is None:
        return
    extra = {"rollout": None} if "rollout" in signature.parameters else {}
    try:
        signature.bind(*called_with, **extra, **options)
    except TypeError as error:
        wanted = f"({', '.join(called_with)}, **options)" if called_with else "its options"
        raise ContentError(f"reward '{name}' is called with {wanted}: {error}") from error
