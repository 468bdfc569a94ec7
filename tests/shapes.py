"""Checks annotations at the calls of every test, for conftest.py; an int is a float, as everywhere in Python."""

import functools

from beartype import BeartypeConf, beartype
from jaxtyping import config

CHECKS = 20_000
"""As many checks each test gets: a loop of thousands of the same steps would spend most of its time on them."""

_checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
_done = 0


def begin() -> None:
    """A new test: it is checked from its first call."""
    global _done
    _done = 0
    config.update("jaxtyping_disable", False)


def check(function):
    """`function`, which then checks its arguments and its result against its annotations, CHECKS times in a test."""
    checked = _checker(function)

    @functools.wraps(function)
    def counted(*arguments, **named):
        global _done
        _done += 1
        if _done == CHECKS:
            config.update("jaxtyping_disable", True)
        return checked(*arguments, **named)

    return counted


def check_algorithm(function):
    """The same for a file that names the types of its arguments for readers only, so that it needs no torch."""
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch

    names = {one.__name__: one for one in (Bool, Float, Int, Tensor, Stage, Batch)}
    if callable(function) and hasattr(function, "__globals__"):
        function.__globals__.update(names)
    return check(function)
