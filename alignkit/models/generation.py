"""Generation settings that transformers loads and refuses to save."""

from __future__ import annotations

from typing import Any

# what other settings are judged by, hence kept first
FIRST = ("eos_token_id", "bos_token_id", "do_sample", "num_beams", "return_dict_in_generate", "use_cache")


def valid_generation(given: Any) -> tuple[Any, dict[str, Any]]:
    """(a GenerationConfig that transformers saves, what was left out of it), in which generation means the same.

    Settings that transformers ignores beside the others (a temperature where `do_sample` is false) make a model that
    loads and cannot be saved. Each setting is kept if it is valid beside those kept before it.
    """
    if _valid(given):
        return given, {}
    settings = given.to_diff_dict()
    order = [*(name for name in FIRST if name in settings), *(name for name in settings if name not in FIRST)]
    kept: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    for name in order:
        attempt = {**kept, name: settings[name]}
        if _valid(_config(given, attempt)):
            kept = attempt
        else:
            left_out[name] = settings[name]
    return _config(given, kept), left_out


def _config(given: Any, settings: dict[str, Any]) -> Any:
    config = type(given)()
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def _valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
