"""Pure tensor functions. Submodules load on first use, so naming `ops` costs no torch import."""

import importlib


def __getattr__(name: str):
    try:
        return importlib.import_module(f"alignkit.ops.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"alignkit.ops has no module {name!r}") from error
