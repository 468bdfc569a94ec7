"""Which environment variables are secrets, and how code that a recipe names runs without them.

A recipe's Python files need no tokens, so they get none: before the first of them is imported, `withhold` takes every
secret out of this process's environment (os.environ, the C library's, and what /proc shows), and reward workers are
started without any. The few places that need one ask for it by name (`secret`, `lent`). This is no wall: a file that
runs in the same process can search its memory.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager

NAMES = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASS|PASSWD|PASSWORDS?|PASSPHRASES?|PWD|CREDENTIALS?|CREDS|KEYS?|APIKEYS?|AUTH|AUTHKEY|PAT|PIN"
    r"|COOKIES?|DSN|JWT|NETRC|WEBHOOK|SIGNATURE|LICENSE)(_|$)|(TOKEN|SECRET|PASSWORD|PASSWD|APIKEY|ACCESSKEY|SECRETKEY)$"
    r"|^(AWS|AZURE|AZ|GCP|GCLOUD|GOOGLE|GH|GITHUB|GITLAB|OCI|VAULT)_|(^|_)CONNECTION_STRING(_|$)",
    re.IGNORECASE,
)
VALUES = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|^(hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|eyJ[\w-]+\.|-----BEGIN )"
)
FOR_THE_HUB = r"(HF|HUGGING_?FACE)\w*|\w*_(PROXY|proxy)"
NO_SECRETS = frozenset({"PWD", "OLDPWD"})

_held: dict[str, str] = {}


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like one by its name (`*_TOKEN`, `*_KEY`, `AWS_*`, ...) or by what it holds."""
    return name not in NO_SECRETS and bool(NAMES.search(name) or VALUES.search(value))


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not is_secret(name, value)}


def withhold() -> None:
    """Takes the secrets out of this process's environment; from now on only `secret` and `lent` know them."""
    for name, value in [*os.environ.items()]:
        if is_secret(name, value):
            _held[name] = value
            _blot_out(name)
            del os.environ[name]


def secret(name: str) -> str | None:
    """A variable's value, whether it was withheld or not."""
    return os.environ.get(name, _held.get(name))


def with_secrets() -> dict[str, str]:
    """The whole environment, for a process of alignkit's own that runs the same recipe."""
    return {**_held, **os.environ}


@contextmanager
def lent(pattern: str) -> Generator[None]:
    """Puts the withheld variables whose whole names match the pattern back, for as long as the block lasts."""
    back = {name: value for name, value in _held.items() if re.fullmatch(pattern, name) and name not in os.environ}
    with in_environment(back):
        yield


@contextmanager
def in_environment(values: Mapping[str, str]) -> Generator[None]:
    """Sets variables for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _blot_out(name: str) -> None:
    """Overwrites the value where the C library holds it, which is where the kernel reads /proc/PID/environ."""
    if sys.platform != "linux":
        return
    getenv = ctypes.CDLL(None).getenv
    getenv.restype, getenv.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    place = getenv(os.fsencode(name))
    if place:
        ctypes.memset(place, 0, len(ctypes.string_at(place)))
