"""What is learnt of a conversation by the recipes of families, as text: between ⟦ and ⟧."""

from __future__ import annotations

from datetime import datetime

TEMPLATES = {
    "qwen3-4b": "qwen3",
    "qwen3.5-9b": "qwen3_5",
    "llama-3.1-8b": "llama_3_1",
    "llama-3.2-1b": "llama_3_2",
    "gemma-3-1b": "gemma_3",
    "smollm3-3b": "smollm3",
    "mistral-7b": "mistral_7b_v0_3",
    "phi-4": "phi_4",
    "olmo-2-7b": "olmo_2",
    "olmo-3-7b": "olmo_3",
    "deepseek-r1-distill-1.5b": "deepseek_r1_distill",
    "gpt-oss-20b": "gpt_oss",
}
"""The template of each model of recipes/models."""

THOUGHT = {"deepseek-r1-distill-1.5b": "<think>\nhm\n</think>\n\n"}
"""What answers in rows begin with, where the template opens a thought."""


def one(name: str) -> str:
    """A colour? Blue."""
    return _dated(HEADS.get(name, "") + TURNS[name][0])


def talk(name: str) -> str:
    """A colour? Blue. A number? Seven."""
    return _dated(HEADS.get(name, "") + TURNS[name][1])


def asked(name: str) -> str:
    """What is sampled behind for a colour: the generation prompt of the GRPO recipe is at its end."""
    return one(name).partition("⟦")[0] + ("<think>\n\n</think>\n\n" if name == "qwen3-4b" else "")


def _dated(text: str) -> str:
    return datetime.now().strftime(text) if "%" in text else text  # templates show the local date


LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
)
HEADS = {
    "llama-3.1-8b": LLAMA,
    "llama-3.2-1b": LLAMA,
    "gemma-3-1b": "<bos>",
    "mistral-7b": "<s>",
    "olmo-2-7b": "<|endoftext|>",
    "deepseek-r1-distill-1.5b": "<｜begin▁of▁sentence｜>",
    "smollm3-3b": (
        "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: %d %B %Y\n"
        "Reasoning Mode: /no_think\n\n## Custom Instructions\n\nAnswer.\n\n"
    ),
    "olmo-3-7b": (
        "<|im_start|>system\nYou are a helpful function-calling AI assistant. You do not currently have access to any "
        "functions. <functions></functions><|im_end|>\n"
    ),
    "gpt-oss-20b": (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\nCurrent date: %Y-%m-%d\n\nReasoning: low\n\n# Valid channels: analysis, "
        "commentary, final. Channel must be included for every message.<|end|>"
    ),
}
"""What stands before the first turn."""

LLAMA_TURN = (
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦{}<|eot_id|>⟧"
)
GEMMA_TURN = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n⟦{}<end_of_turn>⟧"
CHATML_TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"
TURNS = {
    "qwen3-4b": (
        CHATML_TURN.format("A colour?") + f"⟦{EMPTY}Blue.<|im_end|>⟧",
        CHATML_TURN.format("A colour?")
        + "⟦Blue.<|im_end|>⟧\n"
        + CHATML_TURN.format("A number?")
        + f"⟦{EMPTY}Seven.<|im_end|>⟧",
    ),
    "qwen3.5-9b": (
        CHATML_TURN.format("A colour?") + EMPTY + "⟦Blue.<|im_end|>⟧",
        CHATML_TURN.format("A colour?")
        + "Blue.<|im_end|>\n"
        + CHATML_TURN.format("A number?")
        + EMPTY
        + "⟦Seven.<|im_end|>⟧",
    ),
    "smollm3-3b": (
        CHATML_TURN.format("A colour?") + "<think>\n\n</think>\n⟦Blue.<|im_end|>⟧",
        CHATML_TURN.format("A colour?")
        + "<think>\n\n</think>\n⟦Blue.<|im_end|>⟧\n"
        + CHATML_TURN.format("A number?")
        + "<think>\n\n</think>\n⟦Seven.<|im_end|>⟧",
    ),
    "olmo-3-7b": (
        CHATML_TURN.format("A colour?") + "⟦Blue.<|endoftext|>⟧",
        CHATML_TURN.format("A colour?")
        + "Blue.<|im_end|>\n"
        + CHATML_TURN.format("A number?")
        + "⟦Seven.<|endoftext|>⟧",
    ),
    **dict.fromkeys(
        ("llama-3.1-8b", "llama-3.2-1b"),
        (
            LLAMA_TURN.format("A colour?", "Blue."),
            LLAMA_TURN.format("A colour?", "Blue.") + LLAMA_TURN.format("A number?", "Seven."),
        ),
    ),
    "gemma-3-1b": (
        GEMMA_TURN.format("A colour?", "Blue."),
        GEMMA_TURN.format("A colour?", "Blue.") + "\n" + GEMMA_TURN.format("A number?", "Seven."),
    ),
    "mistral-7b": (
        "[INST] A colour?[/INST]⟦ Blue.</s>⟧",
        "[INST] A colour?[/INST]⟦ Blue.</s>⟧[INST] A number?[/INST]⟦ Seven.</s>⟧",
    ),
    "phi-4": (
        "<|im_start|>user<|im_sep|>A colour?<|im_end|><|im_start|>assistant<|im_sep|>⟦Blue.<|im_end|>⟧",
        "<|im_start|>user<|im_sep|>A colour?<|im_end|><|im_start|>assistant<|im_sep|>⟦Blue.<|im_end|>⟧"
        "<|im_start|>user<|im_sep|>A number?<|im_end|><|im_start|>assistant<|im_sep|>⟦Seven.<|im_end|>⟧",
    ),
    "olmo-2-7b": (
        "<|user|>\nA colour?\n<|assistant|>\n⟦Blue.<|endoftext|>⟧",
        "<|user|>\nA colour?\n<|assistant|>\n⟦Blue.<|endoftext|>⟧\n<|user|>\nA number?\n<|assistant|>\n"
        "⟦Seven.<|endoftext|>⟧",
    ),
    "deepseek-r1-distill-1.5b": (
        "<｜User｜>A colour?<｜Assistant｜><think>\n⟦hm\n</think>\n\nBlue.<｜end▁of▁sentence｜>⟧",
        "<｜User｜>A colour?<｜Assistant｜>\n\nBlue.<｜end▁of▁sentence｜><｜User｜>A number?<｜Assistant｜><think>\n"
        "⟦hm\n</think>\n\nSeven.<｜end▁of▁sentence｜>⟧",
    ),
    "gpt-oss-20b": (
        "<|start|>user<|message|>A colour?<|end|><|start|>assistant⟦<|channel|>final<|message|>Blue.<|return|>⟧",
        "<|start|>user<|message|>A colour?<|end|><|start|>assistant<|channel|>final<|message|>Blue.<|end|>"
        "<|start|>user<|message|>A number?<|end|><|start|>assistant⟦<|channel|>final<|message|>Seven.<|return|>⟧",
    ),
}
"""One turn, and two, by the template of each model."""
