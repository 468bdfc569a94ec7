"""How well a short answer agrees with the reference, after SQuAD's normalisation: case, punctuation, articles, spaces.

`metric: exact` (1 or 0) or `f1` (harmonic mean of token precision and recall; a wrong yes or no is 0). The answer is
what stands in the last `<answer>` tag, else the sentence behind the last "the answer is" (or the same in another
language), else the whole completion. The reference is a text or a list of texts, of which the best counts.
"""

import re
import unicodedata
from collections import Counter
from typing import Any, Literal

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, Outcome, bad_gold, judged
from alignkit.rewards.verify.phrases import stated_phrases
from alignkit.rewards.verify.thoughts import spoken, tagged_answer
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

SENTENCE = re.compile(r"\s{0,8}[^\n]{0,1000}?(?=[.!?](?:\s|$)|[。！？।]|\n|$)")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
CLOSED = {"yes", "no", "noanswer"}


@reward
def qa_answer(completion: str, task: Task, *, metric: Literal["exact", "f1"] = "exact") -> Score:
    golds = [tokens for gold in as_list(task.reference) if (tokens := normal(gold))]
    if not golds:
        return bad_gold(task, "qa_answer", "a text, or a list of texts, with a word in it")
    answer = normal(find_answer(spoken(completion)))
    if not answer:
        return judged(Outcome.UNPARSED, "qa_answer", "no readable answer in the completion")
    value = max(f1(gold, answer) if metric == "f1" else float(gold == answer) for gold in golds)
    return Score(value=value, parts={"qa_answer": value})


def as_list(reference: Any) -> list[str]:
    texts = reference if isinstance(reference, list | tuple) else [reference]
    known = [str(text) if isinstance(text, int | float) and not isinstance(text, bool) else text for text in texts]
    return [text for text in known if isinstance(text, str)]


def find_answer(text: str) -> str:
    tagged = tagged_answer(text)
    if tagged is not None:
        return tagged
    stated = stated_phrases(text)
    sentence = SENTENCE.match(text, stated[-1].end) if stated else None
    return sentence.group() if sentence else text


def normal(text: str) -> list[str]:
    """Words without case, articles and the punctuation of any script."""
    plain = "".join(
        sign for sign in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(sign)[0] not in "PS"
    )
    return ARTICLES.sub(" ", plain).split()


def f1(gold: list[str], answer: list[str]) -> float:
    if gold != answer and ({*gold} & CLOSED or {*answer} & CLOSED) and min(len(gold), len(answer)) == 1:
        return 0.0
    common = sum((Counter(gold) & Counter(answer)).values())
    return 2 * common / (len(gold) + len(answer))


SELF_TEST = (
    Case(completion="The Eiffel Tower.", reference="eiffel tower", expected=1),
    Case(completion="I think so. The answer is: Paris!", reference=["Paris", "Paris, France"], expected=1),
    Case(completion="<answer>in Paris</answer>", reference="Paris", expected=0),
    Case(completion="in Paris", reference="Paris", options={"metric": "f1"}, expected=2 / 3),
    Case(completion="no", reference="yes", options={"metric": "f1"}, expected=0),
    Case(completion="yes and no", reference="no", options={"metric": "f1"}, expected=0),
    Case(completion="1969", reference=1969, expected=1),
    Case(completion="<think>Paris</think>", reference="Paris", expected=0),
    Case(completion="Paris", reference="the", expected=FaultKind.GOLD),
    Case(completion="", reference=[], expected=FaultKind.GOLD),
)
