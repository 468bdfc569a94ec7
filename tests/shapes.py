"""Checks annotations at every call, for conftest.py; an int is a float, as everywhere in Python."""

from beartype import BeartypeConf, beartype

_checker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """`function`, which then checks its arguments and its result against its annotations."""
    return _checker(function)


def check_algorithm(function):
    """The same for a file that names the types of its arguments for readers only, so that it needs no torch."""
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from alignkit.recipe.schema import Stage
    from alignkit.types.batch import Batch

    names = {one.__name__: one for one in (Bool, Float, Int, Tensor, Stage, Batch)}
    if callable(function) and hasattr(function, "__globals__"):
        function.__globals__.update(names)
    return _checker(function)
