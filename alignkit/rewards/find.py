"""From a reward's name to the thing that scores: shelf, `./file.py:name`, `package.module:name`, `trl:function`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from alignkit.errors import ContentError
from alignkit.rewards.base import FunctionReward, Reward
from alignkit.rewards.trl import TrlReward, is_trl_style


def shelf(beside: Path | None = None) -> dict[str, Path]:
    """Rewards that go by their bare name: {name: file}. The file's name is the reward's name.

    Later places give way to earlier ones: `reward_models/` beside the recipe, the folders of $ALIGNKIT_PATH (their
    `reward_models/`), the shelf that comes with alignkit.
    """
    from alignkit.content import ROOT

    roots = [beside] if beside else []
    roots += [Path(entry) for entry in os.environ.get("ALIGNKIT_PATH", "").split(os.pathsep) if entry]
    found: dict[str, Path] = {}
    for root in [*roots, ROOT]:
        for file in sorted((root / "reward_models").rglob("*.py")):
            if not file.stem.startswith("_"):
                found.setdefault(file.stem, file)
    return found


def find(name: str, options: Mapping[str, Any], beside: Path | None = None) -> Reward:
    """The reward called `name`, with its options bound. Imports its file, so it is called in the pool's workers only.

    A class and a TRL `get_...` factory are called with the options; a function gets them as keyword arguments.
    Raises ContentError when there is no such reward or it does not take the options.
    """
    target = _target(name, beside)
    short = name.rsplit(":", 1)[-1]
    if inspect.isclass(target) or (name.startswith("trl:") and short.startswith("get_")):
        target, options = _call(target, name, options), {}
    if isinstance(target, FunctionReward):
        _check_options(target.function, name, options)
        return FunctionReward(function=target.function, name=target.name, options={**target.options, **options})
    if isinstance(target, Reward):
        return target
    if not callable(target):
        raise ContentError(f"reward {name}: is a {type(target).__name__}; wanted a function or a Reward")
    _check_options(target, name, options)
    if is_trl_style(target):
        return TrlReward(function=target, name=short, options=options)
    return FunctionReward(function=target, name=short, options=options)


def _target(name: str, beside: Path | None) -> Any:
    place, _, attribute = name.rpartition(":")
    if not place:
        files = shelf(beside)
        if name not in files:
            raise ContentError(f"reward {name}: not on the shelf{_guess(name, files)}; see `alignkit ls rewards`")
        return _attribute(_import_file(files[name]), name, name)
    if place == "trl":
        return _attribute(_import_module("trl.rewards", name), attribute, name)
    if place.endswith(".py"):
        file = (beside or Path.cwd()) / Path(place).expanduser()
        if not file.is_file():
            raise ContentError(f"reward {name}: no file {file}; the path is taken from the recipe's folder")
        return _attribute(_import_file(file), attribute, name)
    return _attribute(_import_module(place, name), attribute, name)


def _import_file(file: Path) -> ModuleType:
    digest = hashlib.blake2b(str(file.resolve()).encode(), digest_size=6).hexdigest()
    module_name = f"alignkit_reward_{file.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ContentError(f"reward {name}: cannot import {module}: {error}") from error


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    if not hasattr(module, attribute):
        where = getattr(module, "__file__", None) or module.__name__
        raise ContentError(f"reward {name}: {where} does not define {attribute}{_guess(attribute, dir(module))}")
    return getattr(module, attribute)


def _call(target: Callable, name: str, options: Mapping[str, Any]) -> Any:
    _check_options(target, name, options)
    try:
        inspect.signature(target).bind(**options)
    except TypeError as error:
        raise ContentError(f"reward {name}: options: {error}") from error
    return target(**options)


def _check_options(function: Callable, name: str, options: Mapping[str, Any]) -> None:
    """Unknown options, and options without a default that were not given, are errors before the first rollout."""
    parameters = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not open_ended:
            raise ContentError(f"reward {name}: no option {option}{_guess(option, parameters)}")
    for parameter in () if is_trl_style(function) else parameters.values():
        required = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if required and parameter.name != "rollout" and parameter.name not in options:
            raise ContentError(f"reward {name}: option {parameter.name} is missing; give it under `options`")


def _guess(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, [str(item) for item in known], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
