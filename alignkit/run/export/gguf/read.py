"""Reads a GGUF file back by transformers, with what transformers overlooks in it taken from the file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignkit.errors import ExportError
from alignkit.models.pretrained import own_attention, without_dropout
from alignkit.run.export.gguf.families import FAMILIES, Family, places, separate
from alignkit.run.export.gguf.vocabulary import ENDS, SPACE, pre_tokenizers

if TYPE_CHECKING:
    from gguf import GGUFReader

LOCAL_BASE = 10000.0  # llama.cpp's for layers with a window
SPECIAL = (3, 4)  # control tokens, and those that are added for other reasons
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
SETTINGS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
}
"""What transformers calls llama.cpp's settings."""
EXPERTS = {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
STOPS = ("eos", "eot", "eom")


class GgufFile:
    """A file and what llama.cpp takes from it."""

    def __init__(self, file: Path):
        from gguf import GGUFReader

        self.file = file
        self.reader: GGUFReader = GGUFReader(file)
        self._tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.arch: str = self.reader.fields["general.architecture"].contents()

    def value(self, key: str) -> Any:
        """A setting, `{arch}` in its key filled in; None where the file has none."""
        field = self.reader.fields.get(key.format(arch=self.arch))
        return None if field is None else field.contents()

    def _needed(self, key: str) -> Any:
        """The setting. Raises ExportError where the file has none: a default would stand for it."""
        value = self.value(key)
        if value is None:
            raise ExportError(f"{self.file}: {key.format(arch=self.arch)} is missing; nothing was exported")
        return value

    def weight(self, name: str) -> tuple[str, Tensor] | None:
        """(type, weight in float32) of one of llama.cpp's names; None where the file has none of that name."""
        from gguf import dequantize

        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        return tensor.tensor_type.name, torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())

    @property
    def names(self) -> set[str]:
        """Of all weights."""
        return set(self._tensors)

    @property
    def kind(self) -> str:
        """transformers' name of the family; of those with one architecture the first that has experts as the file."""
        mixed = self.value("{arch}.expert_count") is not None
        return next(kind for kind, one in FAMILIES.items() if (one.arch, one.experts) == (self.arch, mixed))

    @property
    def family(self) -> Family:
        return FAMILIES[self.kind]

    def config(self) -> Any:
        """transformers' config of the file, with what it does not read: sizes of heads, windows, caps."""
        from transformers import AutoConfig

        if self.family.assembled:
            return self._assembled_config()
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
        if self.family.experts:  # of which llama.cpp makes shares of the chosen ones, in each layer
            config.norm_topk_prob, config.mlp_only_layers, config.decoder_sparse_step = True, [], 1
            config.moe_intermediate_size = self.value("{arch}.expert_feed_forward_length")
        if self.family.caps:
            config.attn_logit_softcapping = self.value("{arch}.attn_logit_softcapping")
            config.final_logit_softcapping = self.value("{arch}.final_logit_softcapping")
        return config

    def _assembled_config(self) -> Any:
        """The config of a family that transformers does not know as GGUF: its defaults, with the file's settings."""
        from transformers import AutoConfig

        settings = {ours: self.value(f"{{arch}}.{theirs}") for ours, theirs in SETTINGS.items()}
        settings |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": self.value("{arch}.rope.freq_base")}
        settings["tie_word_embeddings"] = "output.weight" not in self.names
        settings["attention_bias"] = "blk.0.attn_q.bias" in self.names
        if self.family.plain_every:
            layers = range(1, settings["num_hidden_layers"] + 1)
            settings["no_rope_layers"] = [int(layer % self.family.plain_every != 0) for layer in layers]
        if self.family.experts:
            settings |= {ours: self._needed(f"{{arch}}.{theirs}") for ours, theirs in EXPERTS.items()}
        return without_dropout(AutoConfig.for_model(self.kind, **settings))

    def _assembled(self) -> Any:
        """The model of such a family, each weight of the file in its place."""
        from transformers import AutoModelForCausalLM

        config = self.config()
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=own_attention(config, AutoModelForCausalLM)
        )
        with torch.no_grad():
            for name, numbers, heads in places(model):
                found = self.weight(name)
                if found is None:
                    raise ExportError(f"{self.file}: the weight {name} is missing; nothing was exported")
                numbers.copy_(found[1] if heads is None else separate(found[1], heads))
        return model

    def frequencies(self) -> dict[str, Tensor]:
        """Rotary frequencies by the kind of layer, as llama.cpp computes them; "" where all layers have the same."""
        width = self.value("{arch}.rope.dimension_count")
        halves = torch.arange(0, width, 2, dtype=torch.float64) / width
        plain = self.value("{arch}.rope.freq_base") ** -halves
        factors = self.weight("rope_freqs.weight")
        everywhere = plain / (1.0 if factors is None else factors[1].double())
        if self.value("{arch}.rope.scaling.type") == "linear":
            everywhere = everywhere / self.value("{arch}.rope.scaling.factor")
        if self.arch != "gemma3":
            return {"": everywhere.float()}
        local = (self.value("{arch}.rope.freq_base_swa") or LOCAL_BASE) ** -halves
        return {"full_attention_": everywhere.float(), "sliding_attention_": local.float()}

    def model(self) -> Any:
        """The model by transformers in float32, turned by the file's own frequencies."""
        from transformers import AutoModelForCausalLM, GgufConfig

        if self.family.assembled:
            return self._turned(self._assembled())
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
        return self._turned(model)

    def _turned(self, model: Any) -> Any:
        for kind, frequencies in self.frequencies().items():
            setattr(model.get_decoder().rotary_emb, f"{kind}inv_freq", frequencies)
        return model.eval()

    def tokenizer(self) -> Any:
        """The tokenizer by transformers, with what it overlooks in the file: who splits texts, odd special tokens."""
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        tokenizer: Any = (
            self._assembled_tokenizer()
            if self.family.assembled
            else AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name)
        )
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        if (pre := self.value("tokenizer.ggml.pre")) in (known := pre_tokenizers()):
            spec["pre_tokenizer"] = known[pre]
        if self.value("tokenizer.ggml.model") == "gpt2":
            self._spell(spec)
        else:  # llama.cpp prefixes each text between special tokens, or none; transformers goes by the architecture
            prefix = [{"type": "Prepend", "prepend": SPACE}] if self.value("tokenizer.ggml.add_space_prefix") else []
            spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
            spec |= {"normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]}, "pre_tokenizer": None}
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        whole = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
            clean_up_tokenization_spaces=False,
            **{name: token for name in names if (token := getattr(tokenizer, name)) is not None},
        )
        whole.chat_template = tokenizer.chat_template
        return whole

    def _assembled_tokenizer(self) -> Any:
        """transformers reads the words of such a file, though not whose they are."""
        from transformers import PreTrainedTokenizerFast
        from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

        arch, said, _ = get_gguf_tokenizer(str(self.file))
        inner, _ = convert_gguf_tokenizer(arch, said)
        tokens = self.value("tokenizer.ggml.tokens")
        ids = {name: self.value(f"tokenizer.ggml.{key}_token_id") for name, key in NAMED.items()}
        named = {name: tokens[index] for name, index in ids.items() if index is not None}
        tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=inner, **named)
        tokenizer.chat_template = self.value("tokenizer.chat_template")
        return tokenizer

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
