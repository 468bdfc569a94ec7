"""Checks annotations at every call, for conftest.py; an int is a float, as everywhere in Python."""

from beartype import BeartypeConf, beartype

_checker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """`function`, which then checks its arguments and its result against its annotations."""
    return _checker(function)
