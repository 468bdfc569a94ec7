"""A GGUF file is proven to be the model, family by family; planted faults are caught, the rest is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from tokenizers import pre_tokenizers

from alignkit.errors import ExportError
from alignkit.models.save import save_pretrained
from alignkit.run.export.export import export
from alignkit.run.export.gguf import families, write
from alignkit.run.export.gguf.families import interleave, stored
from alignkit.run.export.gguf.write import packed
from tests.unit.export_models import FAMILIES, LLAMA3, tiny, tokenizer_of
from tests.unit.export_models import write as write_model

DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def exported(folder: Path, dtype: str = "f16", out: str = "out"):
    return export(str(folder), to="gguf", dtype=dtype, out=folder.parent / out)


def in_docs() -> dict[str, list[str]]:
    """The cells of docs/export.md by family."""
    table = DOCS.read_text().split("<!-- families: begin (make export-table) -->\n")[1].split("<!-- families: end")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {cells[0]: cells for cells in rows}


def test_the_docs_table_has_each_family():
    assert list(in_docs()) == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_read_back_as_the_model_to_the_rounding_of_its_numbers_as_the_docs_say(name, tmp_path):
    write_model(tmp_path / "model", name)
    small = exported(tmp_path / "model", "q8_0")
    half = exported(tmp_path / "model", "f16", out="half")
    assert small.gaps["rounded"] < 1e-5
    assert half.gaps["rounded"] < 1e-5
    told = in_docs()[name]
    assert half.gaps["gap"] == pytest.approx(float(told[3]), rel=0.6)  # of which the docs say one digit
    assert small.gaps["gap"] == pytest.approx(float(told[5]), rel=0.6)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "gap"), [("f16", 1e-4), ("q8_0", 0.09)])
def test_smollm2_is_the_same_model_as_gguf(dtype, gap, tmp_path):
    """Measured on 2026-11-30: 4e-6 and 0.045 nats a token."""
    done = export("smollm2-135m-instruct", to="ollama", dtype=dtype, out=tmp_path / "out")
    assert done.gaps["rounded"] < 1e-4
    assert done.gaps["gap"] < gap
    assert (tmp_path / "out" / "Modelfile").read_text().startswith(f"FROM ./smollm2-135m-instruct-{dtype}.gguf")


def test_float32_costs_nothing_and_bfloat16_as_much_as_its_bits(tmp_path):
    write_model(tmp_path / "model", "SmolLM2")
    whole, brief = exported(tmp_path / "model", "f32"), exported(tmp_path / "model", "bf16", out="brief")
    assert whole.gaps == {"gap": 0.0, "rounded": 0.0}
    assert 0.001 < brief.gaps["gap"] < 0.01
    kinds = {tensor.tensor_type.name for tensor in GGUFReader(brief.folder / "model-bf16.gguf").tensors}
    assert kinds == {"BF16", "F32"}, "vectors stay float32"


def test_pairs_of_a_head_that_turn_together_meet():
    """Heads of four rows: 0 and 2 turn together, 1 and 3."""
    rows = torch.arange(8.0)[:, None]
    assert interleave(rows, heads=2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_rows_that_the_vocabulary_does_not_fill_are_named_and_never_said(tmp_path):
    done = exported(write_model(tmp_path / "model", "SmolLM2"))
    fields = GGUFReader(done.folder / "model-f16.gguf").fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert tokens[-3:] == [f"[PAD{len(tokens) - back}]" for back in (3, 2, 1)]
    assert kinds[-4:] == [3, 5, 5, 5]
    assert "output.weight" not in {tensor.name for tensor in GGUFReader(done.folder / "model-f16.gguf").tensors}


def stale_head(model):
    yield from stored(model)
    yield "output.weight", model.get_input_embeddings().weight.detach() * 0.9


def with_bias(model):
    yield from stored(model)
    yield "blk.0.attn_q.bias", torch.zeros(32)


def without_one(model):
    yield from (each for each in stored(model) if each[0] != "blk.1.ffn_up.weight")


def unmerged(name, weight, dtype):
    return packed(name, weight * 0.97 if name == "blk.1.attn_v.weight" else weight, dtype)


def another_epsilon(writer, value):
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-3)


def nothing(writer, value):
    """Writes no such setting."""


FAULTS = {
    "q and k not permuted": (
        (families, "interleave", lambda weight, heads: weight),
        r"says -\d\S* nats a token on the probe where the model says -\d",
    ),
    "stale tied head": (
        (write, "stored", stale_head),
        "tie_word_embeddings is True in the model and False in the file",
    ),
    "wrong rope scaling": (
        (families, "frequency_factors", lambda model: torch.ones(4)),
        r"rotary positions differ: frequency 1 is 0.0125 in the model and 0.1 in the file",
    ),
    "template not copied": (
        (GGUFWriter, "add_chat_template", nothing),
        r"the chat template renders nothing where the model's own gives '<\|begin",
    ),
    "a weight too many": (
        (write, "stored", with_bias),
        "1 weights are the file's alone, first blk.0.attn_q.bias",
    ),
    "a weight too few": ((write, "stored", without_one), "the weight blk.1.ffn_up.weight is missing"),
    "no bos": ((GGUFWriter, "add_add_bos_token", nothing), "a text does not begin with BOS"),
    "another epsilon": (
        (GGUFWriter, "add_layer_norm_rms_eps", another_epsilon),
        r"rms_norm_eps is 1e-06 in the model and 0.001\d* in the file",
    ),
    "unmerged adapter": ((write, "packed", unmerged), r"blk.1.attn_v.weight \(F16\) is up to 0.\d+ off"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_in_one_sentence_and_nothing_is_left(fault, tmp_path, monkeypatch):
    name = "SmolLM2" if fault == "stale tied head" else "Llama 3.1, 3.2, 3.3"
    write_model(tmp_path / "model", name)
    planted, sentence = FAULTS[fault]
    monkeypatch.setattr(*planted)
    with pytest.raises(ExportError, match=sentence) as told:
        exported(tmp_path / "model")
    assert "\n" not in str(told.value)
    assert [place.name for place in tmp_path.iterdir()] == ["model"]


def swapped(model):
    """Of each expert the two matrices that transformers fuses, one in the place of the other."""
    names = {"ffn_gate_exps": "ffn_up_exps", "ffn_up_exps": "ffn_gate_exps"}
    for own, weight in stored(model):
        block, layer, kind = own.rpartition(".")[0].rpartition(".")
        yield f"{block}{layer}{names.get(kind, kind)}.weight", weight


def without_post_norm(model):
    yield from (each for each in stored(model) if each[0] != "blk.1.post_ffw_norm.weight")


def rotated(name, weight, dtype):
    """A query that was not permuted, of a layer that turns."""
    return packed(name, weight.flip(0) if name == "blk.0.attn_q.weight" else weight, dtype)


def another_base(writer, value):
    writer.add_float32("olmo2.rope.freq_base", 5e5)


def wrong_prefix(writer, value):
    writer.add_bool("tokenizer.ggml.add_space_prefix", False)


@pytest.mark.parametrize(
    ("name", "planted", "sentence"),
    [
        ("Qwen3 MoE", (write, "stored", swapped), r"blk.0.ffn_gate_exps.weight \(F16\) is up to \d"),
        ("Qwen3 MoE", (GGUFWriter, "add_expert_used_count", nothing), "num_experts_per_tok is 2 in the model and "),
        ("Mixtral", (write, "stored", swapped), r"blk.0.ffn_gate_exps.weight \(F16\) is up to \d"),
        ("OLMoE", (GGUFWriter, "add_expert_used_count", nothing), "olmoe.expert_used_count is missing"),
        ("OLMo 2", (write, "stored", without_post_norm), "the weight blk.1.post_ffw_norm.weight is missing"),
        ("SmolLM3", (write, "stored", stale_head), "tie_word_embeddings is True in the model and False in the file"),
        ("OLMo 2", (GGUFWriter, "add_rope_freq_base", another_base),
         "rotary positions differ: frequency 3 is 0.001 in the model and 5.3"),
        ("SmolLM3", (write, "packed", rotated), r"blk.0.attn_q.weight \(F16\) is up to \d"),
        ("Llama 2", (GGUFWriter, "add_add_space_prefix", wrong_prefix), "is split into .* where the model's tokenizer"),
        ("Llama 2", (write, "packed", unmerged), r"blk.1.attn_v.weight \(F16\) is up to 0.\d+ off"),
    ],
)  # fmt: skip
def test_a_fault_planted_into_a_family_of_another_kind_is_caught_too(name, planted, sentence, tmp_path, monkeypatch):
    write_model(tmp_path / "model", name)
    monkeypatch.setattr(*planted)
    with pytest.raises(ExportError, match=sentence):
        exported(tmp_path / "model")


def test_another_end_of_completions_is_caught(tmp_path, monkeypatch):
    """`<|finetune_right_pad_id|>` ends completions in this model, and llama.cpp knows it by nothing but the file."""
    tokenizer = tokenizer_of("llama_3_1", "llama-bpe")
    model = tiny("llama", tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|python_tag|>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    save_pretrained(model, tokenizer, tmp_path / "model")
    exported(tmp_path / "model")
    monkeypatch.setattr(GGUFWriter, "add_eom_token_id", lambda self, value: None)
    with pytest.raises(ExportError, match=rf"a completion does not end at {end} \(<\|python_tag\|>\)"):
        exported(tmp_path / "model", out="again")


def test_gemmas_norms_without_their_one_are_caught(tmp_path, monkeypatch):
    write_model(tmp_path / "model", "Gemma 2")
    known = families.FAMILIES["gemma2"]
    monkeypatch.setitem(families.FAMILIES, "gemma2", families.Family(arch="gemma2", pattern=2, caps=known.caps))
    with pytest.raises(ExportError, match="nats a token on the probe"):
        exported(tmp_path / "model")


def test_what_no_reader_can_prove_is_refused_with_what_can_be_done(tmp_path):
    tokenizer = tokenizer_of("smollm2", "smollm")
    odd = copy.deepcopy(tokenizer)
    odd.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    cases = [
        (tiny("granite", tokenizer), tokenizer, "no reader that could prove it reads granite models; use --to merged"),
        (
            tiny("smollm3", tokenizer, num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0]),
            tokenizer,
            r"no_rope_layers is \[1, 0, 1, 0\] in the model and \[1, 1, 1, 0\] in",
        ),
        (
            tiny("qwen3_moe", tokenizer, num_experts=4, num_experts_per_tok=2, norm_topk_prob=False),
            tokenizer,
            "norm_topk_prob is False in the model and True in",
        ),
        (
            tiny("olmoe", tokenizer, num_experts=4, num_experts_per_tok=2),
            tokenizer,
            "wants as many keys as queries, olmoe has 2 of 4",
        ),
        (
            tiny("olmoe", tokenizer, num_experts=4, num_experts_per_tok=2, num_key_value_heads=4, norm_topk_prob=True),
            tokenizer,
            "norm_topk_prob is True in the model and False in",
        ),
        (tiny("llama", odd), odd, "no name that is known here for how the tokenizer splits text"),
        (
            tiny("llama", tokenizer, rope_parameters=yarn),
            tokenizer,
            "scaling of type yarn is not written for llama",
        ),
        (tiny("qwen2", tokenizer, rope_parameters=LLAMA3), tokenizer, "type llama3 is not written for qwen2"),
        (
            tiny("mistral", tokenizer, sliding_window=8),
            tokenizer,
            r"window is \[8\] in the model and nothing in",
        ),
        (tiny("llama", tokenizer, attention_bias=True), tokenizer, "attention_bias is True in the model and False in"),
    ]
    for number, (model, words, sentence) in enumerate(cases):
        save_pretrained(model, words, tmp_path / str(number))
        with pytest.raises(ExportError, match=sentence):
            exported(tmp_path / str(number))


def test_numbers_beyond_float16_are_named(tmp_path):
    tokenizer = tokenizer_of("smollm2", "smollm")
    model = tiny("llama", tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 7] = 70000.0
    save_pretrained(model, tokenizer, tmp_path / "model")
    with pytest.raises(ExportError, match=r"token_embd.weight has numbers that float16 cannot hold .*use --type bf16"):
        exported(tmp_path / "model")


def test_q8_0_is_half_a_step_of_its_block_from_the_weight():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    kind = write.layout((8, 64), "q8_0")[2]
    back = dequantize(write.packed("w", weight, "q8_0"), kind)
    step = np.abs(weight.numpy().reshape(-1, 32)).max(-1, keepdims=True) / 127
    gap = np.abs(back - weight.numpy()).reshape(-1, 32)
    assert 0.45 < float((gap / step).max()) < 0.56
    assert write.layout((8, 48), "q8_0")[2].name == "F16", "48 is no multiple of a block"
