"""Target `adapter`: the LoRA adapter by itself, for peft and vLLM, with the tokenizer that it was trained with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from alignkit.errors import ContentError
from alignkit.models.adapter_folder import CONFIG, WEIGHTS, AdapterFolder
from alignkit.models.lora import quiet
from alignkit.models.merge import merge
from alignkit.models.pretrained import load_pretrained, load_tokenizer
from alignkit.run.export.proof import (
    GAPS,
    TOLERANCE,
    check_logprobs,
    check_words,
    logprobs,
    probe,
    round_weights,
    words,
)
from alignkit.run.export.source import Source


def write_adapter(source: Source, model: Any, tokenizer: Any, folder: Path) -> dict[str, float]:
    """Copies the source's adapter and writes its tokenizer, reads both as people will, and returns `gap`: how far base
    and adapter are from the merged model on the probe, in nats a token.

    Raises ContentError when there is no adapter, ExportError where base and adapter are another model.
    """
    if source.adapter is None:
        raise ContentError(f"{source.folder} has no adapter: the whole model was trained; use --to merged")
    folder.mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source.adapter / name, folder / name)
    tokenizer.save_pretrained(folder)
    return check_adapter(source, model, tokenizer, folder)


def check_adapter(source: Source, model: Any, tokenizer: Any, folder: Path) -> dict[str, float]:
    """The proof of `write_adapter`: what it returns and raises.

    rounded: the same with base and adapter merged (by peft, around a base in 4 bits by alignkit) and rounded as the
    model is stored; only of a base that is stored in the same numbers, because from another one training may have read
    fewer digits.
    """
    from peft import PeftModel
    from transformers import AutoConfig

    found = AdapterFolder.find(str(folder))
    if found is None:
        raise ContentError(f"{folder} lacks {CONFIG}; nothing was exported")
    place, revision = found.base(None), found.settings.get("revision")
    base, _ = load_pretrained(place, revision, source.quantization)
    with quiet():
        adapted: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    check_words(words(tokenizer, model), words(load_tokenizer(str(folder)), adapted), folder, tokenizer)
    sequences, dtype = probe(model, tokenizer), getattr(torch, source.stored)
    wanted = logprobs(model, sequences)
    said = logprobs(adapted, sequences)
    gaps = {"gap": check_logprobs(said, wanted, folder, tolerance=GAPS[source.stored], of="the merged model")}
    if AutoConfig.from_pretrained(place, revision=revision).dtype == dtype:
        merged = merge(adapted) if source.quantization else adapted.merge_and_unload()  # which would quantise anew
        round_weights(merged, lambda name, weight: weight.to(dtype).float())
        said = logprobs(merged, sequences)
        gaps["rounded"] = check_logprobs(said, wanted, folder, tolerance=TOLERANCE, of="the merged model")
    return gaps
