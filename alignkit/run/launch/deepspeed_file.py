"""The DeepSpeed file of a launch profile, and of a process that was launched by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import ContentError
from alignkit.recipe.document import read_document
from alignkit.recipe.lookup.find import KINDS, Found

DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def deepspeed_file(environ: Mapping[str, str]) -> Path | None:
    """The DeepSpeed JSON of this launched process, or None when it runs without DeepSpeed.

    Raises ContentError when the profile names a file that does not exist.
    """
    named = environ.get(DEEPSPEED_FILE)
    return locate_deepspeed(named, Path()) if named else None


def sharding_of(profile: Found) -> tuple[int | None, dict[str, Any] | None]:
    """(processes of an accelerate profile, None: one for each GPU; what its DeepSpeed file says, None without)."""
    config = read_document(profile.path, profile.path.name).tree
    deepspeed = (config.get("deepspeed_config") or {}).get("deepspeed_config_file")
    settings = json.loads(locate_deepspeed(deepspeed, profile.path.parent).read_text()) if deepspeed else None
    return config.get("num_processes"), settings


def locate_deepspeed(named: str, beside: Path) -> Path:
    """A DeepSpeed file's path; a relative name is looked up in the working folder, beside the profile, on the shelf."""
    for folder in (Path(), beside, KINDS["launch"].shelf.parent):
        path = (folder / named).resolve()
        if path.is_file():
            return path
    raise ContentError(f"launch profile: there is no DeepSpeed file '{named}' here, beside the profile or on the shelf")
