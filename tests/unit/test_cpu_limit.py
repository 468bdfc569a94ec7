"""What never ends is ended: a bound on processor time."""

import copy

import pytest

from alignkit.data import chat_template
from alignkit.data.cpu_limit import OverCpuLimit, cpu_limit
from alignkit.data.prompts import render
from alignkit.errors import DataError
from alignkit.recipe.schema import Data
from alignkit.types.task import Task
from tests.families import tokenizer

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"


def test_a_block_that_computes_for_ever_is_ended_and_one_that_ends_is_not():
    def for_ever():
        with cpu_limit(0.05):
            while True:
                pass

    with pytest.raises(OverCpuLimit):
        for_ever()
    with cpu_limit(5.0):
        done = sum(range(1000))
    assert done == 499_500


def test_a_chat_template_that_never_ends_is_an_error_with_the_row(monkeypatch):
    monkeypatch.setattr(chat_template, "RENDER_CPU_S", 0.1)
    words = copy.deepcopy(tokenizer("smollm2"))
    words.chat_template = ENDLESS
    task = Task(id="t", messages=({"role": "user", "content": "hi"},))
    with pytest.raises(DataError, match=r"task t: the chat template takes more than 0.1 s of processor time"):
        render(words, task, Data(source="x"))
