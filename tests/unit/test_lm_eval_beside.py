"""Whole lm-eval runs on a tiny random Llama: every number of our engine is that of lm-eval's own `hf` model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.test_lm_eval import lm_eval_imports  # noqa: F401  # the same stand-ins for what lm-eval imports

pytest.importorskip("lm_eval", reason="lm-eval is a test-only dependency: pip install lm-eval==0.4.13")

CONTEXT = 512
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def byte_tokenizer(*, begins: bool, template: str = CHATML) -> Any:
    """One token per byte and a few special ones; `begins`: it has a begin token and puts it before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|end|>", "<s>", *IM)])
    if begins:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    named = {"eos_token": "<|end|>", "pad_token": "<|end|>", **({"bos_token": "<s>"} if begins else {})}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, extra_special_tokens=list(IM), **named
    )
    tokenizer.chat_template = template
    return tokenizer


IM = ("<|im_start|>", "<|im_end|>")


def beside(tokenizer: Any) -> Any:
    """(ours on the hf engine, lm-eval's hf) around the same random weights."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    from alignkit.engines.hf import HfEngine
    from alignkit.evaluate.benchmark.lm_eval_model import lm_eval_model

    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(
        **sizes, **ids, vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, initializer_range=0.25
    )
    model = LlamaForCausalLM(config).eval()
    # what is too long keeps two tokens less on our side: an engine must have room to sample one
    theirs = HFLM(
        pretrained=model, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=3, max_length=CONTEXT - 2
    )
    engine = HfEngine(model, dtype="float32", share=True)
    return lm_eval_model(engine, tokenizer, context=CONTEXT), theirs


def tasks(folder: Any) -> list[dict[str, Any]]:
    """A multiple choice, a generation with two stop texts besides a special one, and whole texts; as local files."""
    rows = [
        {"q": f"{a} + {b}?", "choices": [str(a + b), "many", str(a - b), "one two"], "gold": 0, "answer": str(a + b)}
        for a, b in ((1, 2), (30, 4), (5, 60), (7, 8), (9, 11))
    ]
    shots = [{**row, "q": f"shot: {row['q']}"} for row in rows[:3]]
    texts = [{"text": "naïve words of " * n + "\n"} for n in (1, 9, 70)]
    for name, content in (("rows", rows), ("shots", shots), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    files = {"test": str(folder / "rows.jsonl"), "train": str(folder / "shots.jsonl")}
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "train",
        "doc_to_text": "Question: {{q}}\nAnswer:",
        "fewshot_config": {"sampler": "first_n"},
    }
    choice = {"task": "choice", "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
    measures = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    said = {"task": "said", "output_type": "generate_until", "doc_to_target": "answer"}
    stops = {"until": ["e", " \n", "zz", "<|im_end|>"], "max_gen_toks": 24, "do_sample": False}
    match = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    whole = {
        "task": "whole",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "texts.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    return [
        {**common, **choice, "metric_list": measures},
        {**common, **said, "generation_kwargs": stops, "metric_list": match},
        whole,
    ]


def answers(model: Any, folder: Any, **options: Any) -> dict[tuple[str, int], Any]:
    """(task, row) -> what the model said of it."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks(folder),
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
        **options,
    )
    return {(name, row["doc_id"]): row["resps"] for name, rows in results["samples"].items() for row in rows}


def numbers(resps: Any) -> list[Any]:
    """The numbers, flags and texts of a sample's answers, in order."""
    if isinstance(resps, list | tuple):
        return [leaf for part in resps for leaf in numbers(part)]
    return [resps]


OPTIONS = {
    "plain": {},
    "two shots": {"num_fewshot": 2},
    "chat": {"apply_chat_template": True},
    "chat with a system prompt and shots as turns": {
        "apply_chat_template": True,
        "system_instruction": "Be brief.",
        "num_fewshot": 2,
        "fewshot_as_multiturn": True,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("begins", [True, False], ids=["begin token", "no begin token"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
@pytest.mark.parametrize("template", [CHATML, STRICT], ids=["any role", "no system role"])
def test_a_whole_run_says_what_lm_evals_own_model_says(tmp_path, begins, options, template):
    if template is STRICT and "system_instruction" not in options:
        pytest.skip("the template differs in system messages only")
    ours, theirs = (
        answers(model, tmp_path, **options) for model in beside(byte_tokenizer(begins=begins, template=template))
    )
    assert ours.keys() == theirs.keys()
    assert len(ours) == 5 + 5 + 3
    for key, said in theirs.items():
        got, wanted = numbers(ours[key]), numbers(said)
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            if isinstance(other, float):
                assert one == pytest.approx(other, abs=1e-4, rel=1e-6), key
            else:
                assert one == other, key


@pytest.mark.slow
def test_a_begin_token_stands_once_whatever_wrote_it():
    from lm_eval.api.instance import Instance

    tokenizer = byte_tokenizer(begins=True)
    ours, theirs = beside(tokenizer)
    begin = tokenizer.bos_token_id
    for text in (
        "plain",
        "<s>written",
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False),
    ):
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours.tok_encode(text).count(begin) == 1
    pairs = [("<s>written", " on"), ("plain", " on"), ("", "alone"), ("", "<s>alone")]
    requests = [Instance("loglikelihood", {}, args, 0, metadata=("task", n, 1)) for n, args in enumerate(pairs)]
    got, wanted = (model.loglikelihood(requests, disable_tqdm=True) for model in (ours, theirs))
    assert [value for value, _ in got] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [flag for _, flag in got] == [flag for _, flag in wanted]
