"""Settings that vLLM reads otherwise than transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def same_config(model_folder: Path) -> dict[str, Any]:
    """Keywords of EngineArgs with which vLLM 0.32 computes what transformers makes of a folder's config.json."""
    changed = _changed(json.loads((model_folder / "config.json").read_text()))
    return {"hf_overrides": changed} if changed else {}


def _changed(config: dict[str, Any]) -> dict[str, Any]:
    """What vLLM must read instead.

    Cohere 2: a layer with a window of w sees w tokens in transformers, its own included, and w + 1 in vLLM
    (models/commandr.py, which says that it was trained so). DeepSeek V2: "greedy" routing knows no groups of experts,
    vLLM limits it to them. DeepSeek V3: without these two names, which published configs have, vLLM has no place for
    the bias of its router. GPT-NeoX: has as many key heads as heads, whatever else its config says.
    """
    kind = config["model_type"]
    if kind == "cohere2" and config.get("sliding_window"):
        return {"sliding_window": config["sliding_window"] - 1}
    if kind == "deepseek_v2" and config.get("topk_method", "greedy") == "greedy" and (config.get("n_group") or 1) > 1:
        return {"n_group": 1, "topk_group": 1}
    if kind == "deepseek_v3" and config.get("topk_method") is None:
        return {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    if kind == "gpt_neox" and "num_key_value_heads" in config:
        return {"num_key_value_heads": config["num_attention_heads"]}
    return {}
