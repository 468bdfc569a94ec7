"""A chat template in Ollama's words renders what the tokenizer's own renders, or is refused."""

from __future__ import annotations

import pytest

from alignkit.cli import main
from alignkit.errors import ExportError
from alignkit.run.export.gguf.vocabulary import adds_bos
from alignkit.run.export.go_template import go_template, render
from tests.families import FAMILIES, tokenizer
from tests.unit.export_models import tokenizer_of, write

REFUSED = {
    "gpt_oss": "today's date",
    "llama_3_2": "today's date",
    "smollm3": "today's date",
    "mistral_small": "today's date",
    "minicpm": "Ollama puts <s> before every text, and the template does not",
    "mistral_7b_v0_3": "it shows 6 messages otherwise",
    "zephyr": "Ollama puts <s> before every text, and the template does not",
}


def said(name: str) -> str:
    own = tokenizer(name)
    return go_template(own, bos=own.bos_token if own.bos_token and adds_bos(own) else "")


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(REFUSED)))
def test_a_conversation_reads_the_same_in_both(name):
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": f'{i} "quoted" {{{{ and }}}}\n\tline'} for i in range(5)
    ]
    own = tokenizer(name)
    wanted = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert wanted.endswith(render(said(name), messages))
    assert len(wanted) - len(render(said(name), messages)) in (0, len(own.bos_token or ""))


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_factor_is_refused_in_a_sentence(name):
    with pytest.raises(ExportError, match=REFUSED[name]):
        said(name)


def test_chatml_in_gos_words_with_the_system_message_of_its_own():
    assert said("smollm2").splitlines() == [
        '{{- if ne (index .Messages 0).Role "system" }}{{ "<|im_start|>system\\nYou are a helpful AI assistant named '
        'SmolLM, trained by Hugging Face" }}{{- end }}',
        "{{- range .Messages }}",
        '{{- if eq .Role "user" }}{{ "<|im_end|>\\n<|im_start|>user\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}',
        '{{- else if eq .Role "assistant" }}{{ "<|im_start|>assistant\\n" }}{{ .Content }}',
        '{{- else if eq .Role "system" }}{{ "<|im_start|>system\\n" }}{{ .Content }}',
        "{{- end }}",
        "{{- end }}",
        "{{- /* the answer */ -}}",
        '{{ "<|im_start|>assistant\\n" }}',
    ]


def test_a_template_that_looks_at_its_content_is_refused():
    own = tokenizer_of("smollm2")
    own.chat_template = own.chat_template.replace("message['content']", "message['content'] | upper")
    own.chat_template += "{% if messages[0]['content'] == 'What is 2+2?' %} {% endif %}"
    with pytest.raises(ExportError, match="cannot be said in Ollama's words"):
        go_template(own, bos="")


def test_the_modelfile_names_the_file_the_stops_and_the_context(tmp_path, capsys):
    write(tmp_path / "model", "Qwen2.5")
    assert (
        main.run(["export", str(tmp_path / "model"), "--to", "ollama", "--type", "q8_0", "--out", str(tmp_path / "o")])
        == 0
    )
    lines = (tmp_path / "o" / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model-q8_0.gguf"
    assert lines[1].startswith('TEMPLATE """{{- if ne (index .Messages 0).Role "system" }}')
    assert lines[-2:] == ['PARAMETER stop "<|im_end|>"', "PARAMETER num_ctx 256"]
    assert (tmp_path / "o" / "model-q8_0.gguf").is_file()
    assert "proven" in capsys.readouterr().out


def test_a_model_without_a_template_is_refused_before_anything_is_written(tmp_path):
    own = tokenizer_of("smollm2")
    own.chat_template = None
    with pytest.raises(ExportError, match="the model has no chat template; use --to gguf"):
        go_template(own, bos="")
