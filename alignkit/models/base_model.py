"""What is inside a PEFT wrapper."""

from __future__ import annotations

from typing import Any


def base_model(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model
