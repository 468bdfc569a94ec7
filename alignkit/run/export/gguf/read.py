"""Reads a GGUF file back by transformers, with what transformers overlooks in it taken from the file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignkit.models.pretrained import own_attention, without_dropout
from alignkit.run.export.gguf.families import FAMILIES, Family
from alignkit.run.export.gguf.vocabulary import ENDS, pre_tokenizers

if TYPE_CHECKING:
    from gguf import GGUFReader

LOCAL_BASE = 10000.0  # llama.cpp's for layers with a window
SPECIAL = (3, 4)  # control tokens, and those that are added for other reasons
STOPS = ("eos", "eot", "eom")


class GgufFile:
    """A file and what llama.cpp takes from it."""

    def __init__(self, file: Path):
        from gguf import GGUFReader

        self.file = file
        self.reader: GGUFReader = GGUFReader(file)
        self.arch: str = self.reader.fields["general.architecture"].contents()

    def value(self, key: str) -> Any:
        """A setting, `{arch}` in its key filled in; None where the file has none."""
        field = self.reader.fields.get(key.format(arch=self.arch))
        return None if field is None else field.contents()

    def weights(self) -> dict[str, tuple[str, Tensor]]:
        """(type, weight in float32) by llama.cpp's names."""
        from gguf import dequantize

        return {
            tensor.name: (tensor.tensor_type.name, torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()))
            for tensor in self.reader.tensors
        }

    @property
    def family(self) -> Family:
        return next(family for family in FAMILIES.values() if family.arch == self.arch)

    def config(self) -> Any:
        """transformers' config of the file, with what it does not read: sizes of heads, windows, caps."""
        from transformers import AutoConfig

        config: Any = without_dropout(AutoConfig.from_pretrained(self.file.parent, gguf_file=self.file.name))
        layers = range(config.num_hidden_layers)
        if hasattr(config, "head_dim"):
            config.head_dim = self.value("{arch}.attention.key_length")
        if self.family.pattern:
            config.sliding_window = self.value("{arch}.attention.sliding_window")
            whole = [(layer + 1) % self.family.pattern == 0 for layer in layers]
            config.layer_types = ["full_attention" if each else "sliding_attention" for each in whole]
            large = config.num_hidden_layers in (46, 62)  # the 27B ones, which llama.cpp scales otherwise
            size = config.hidden_size // config.num_attention_heads if large else config.head_dim
            config.query_pre_attn_scalar = size
        if self.family.caps:
            config.attn_logit_softcapping = self.value("{arch}.attn_logit_softcapping")
            config.final_logit_softcapping = self.value("{arch}.final_logit_softcapping")
        return config

    def frequencies(self) -> dict[str, Tensor]:
        """Rotary frequencies by the kind of layer, as llama.cpp computes them; "" where all layers have the same."""
        width = self.value("{arch}.rope.dimension_count")
        halves = torch.arange(0, width, 2, dtype=torch.float64) / width
        plain = self.value("{arch}.rope.freq_base") ** -halves
        factors = self.weights_of("rope_freqs.weight")
        everywhere = plain / (1.0 if factors is None else factors.double())
        if self.value("{arch}.rope.scaling.type") == "linear":
            everywhere = everywhere / self.value("{arch}.rope.scaling.factor")
        if self.arch != "gemma3":
            return {"": everywhere.float()}
        local = (self.value("{arch}.rope.freq_base_swa") or LOCAL_BASE) ** -halves
        return {"full_attention_": everywhere.float(), "sliding_attention_": local.float()}

    def weights_of(self, name: str) -> Tensor | None:
        found = next((tensor for tensor in self.reader.tensors if tensor.name == name), None)
        return None if found is None else torch.from_numpy(found.data.copy())

    def model(self) -> Any:
        """The model by transformers in float32, turned by the file's own frequencies."""
        from transformers import AutoModelForCausalLM, GgufConfig

        config = self.config()
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            model: Any = AutoModelForCausalLM.from_pretrained(
                self.file.parent,
                gguf_file=self.file.name,
                config=config,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                attn_implementation=own_attention(config, AutoModelForCausalLM),
            )
        for kind, frequencies in self.frequencies().items():
            setattr(model.get_decoder().rotary_emb, f"{kind}inv_freq", frequencies)
        return model.eval()

    def tokenizer(self) -> Any:
        """The tokenizer by transformers, with what it overlooks in the file: who splits texts, odd special tokens."""
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        tokenizer: Any = AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name)
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        if (pre := self.value("tokenizer.ggml.pre")) in (known := pre_tokenizers()):
            spec["pre_tokenizer"] = known[pre]
        if self.value("tokenizer.ggml.model") == "gpt2":
            self._spell(spec)
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        whole = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
            clean_up_tokenization_spaces=False,
            **{name: token for name in names if (token := getattr(tokenizer, name)) is not None},
        )
        whole.chat_template = tokenizer.chat_template
        return whole

    def _spell(self, spec: dict[str, Any]) -> None:
        """Puts special tokens beyond the byte alphabet as they stand; transformers spells their bytes."""
        tokens, kinds = self.value("tokenizer.ggml.tokens"), self.value("tokenizer.ggml.token_type")
        vocab, spelled = spec["model"]["vocab"], {index: token for token, index in spec["model"]["vocab"].items()}
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
            if kind in SPECIAL and spelled.get(index, token) != token:
                vocab[token] = vocab.pop(spelled[index])
                flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                spec["added_tokens"] = [added for added in spec["added_tokens"] if added["content"] != token]
                spec["added_tokens"].append({"id": index, "content": token, "special": kind == SPECIAL[0], **flags})
        spec["added_tokens"].sort(key=lambda added: added["id"])

    def stops(self) -> set[int]:
        """Ids at which llama.cpp ends a completion."""
        said = {self.value(f"tokenizer.ggml.{name}_token_id") for name in STOPS} - {None}
        tokens = self.value("tokenizer.ggml.tokens")
        return said | {index for index, token in enumerate(tokens) if ENDS.fullmatch(token)}
