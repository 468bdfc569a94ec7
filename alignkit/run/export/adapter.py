"""Target `adapter`: the LoRA adapter by itself, for peft and vLLM, with the tokenizer that it was trained with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from alignkit.errors import ContentError
from alignkit.models.adapter_folder import CONFIG, WEIGHTS, AdapterFolder
from alignkit.models.lora import quiet
from alignkit.models.pretrained import load_pretrained, load_tokenizer
from alignkit.run.export.proof import GAPS, check_logprobs, check_words, logprobs, probe, words
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
    """The proof of `write_adapter`: what it returns and raises."""
    from peft import PeftModel

    found = AdapterFolder.find(str(folder))
    if found is None:
        raise ContentError(f"{folder} lacks {CONFIG}; nothing was exported")
    base, _ = load_pretrained(found.base(None), found.settings.get("revision"))
    with quiet():
        adapted: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    check_words(words(tokenizer, model), words(load_tokenizer(str(folder)), adapted), folder, tokenizer)
    sequences = probe(model, tokenizer)
    said, wanted = logprobs(adapted, sequences), logprobs(model, sequences)
    allowed = GAPS[source.stored]
    return {"gap": check_logprobs(said, wanted, folder, tolerance=allowed, of="the merged model")}
