"""1 when the answer after "Final Answer: The final answer is" is the reference after Minerva's normalisation, else 0.

Extraction and normalisation follow appendix D of Lewkowycz et al. 2022 (arXiv 2206.14858) as lm-eval 0.4.13 applies
them (its task `minerva_math`, MIT licence): the first such sentence up to "I hope it is correct", units and formatting
removed. Equal text is right; otherwise the two are compared as mathematics, as `boxed_answer` does. References: the
answer, or a solution with a `\\boxed{...}`.
"""

import re

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold, verdict
from alignkit.rewards.verify.answers import last_boxed
from alignkit.rewards.verify.math_equal import UnreadableGold, same_math
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

CLOSING = "I hope it is correct."
STATED = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")
REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
UNITS = [
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "sue", "points", "feet",
    "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples"
]  # fmt: skip
# in the order of the paper's list, which matters: units before and after "\ldots" are one pass each
REMOVED = (
    *UNITS[:10],
    "\\ldots",
    *UNITS[10:],
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    "\\mathrm{th}",
    "^\\circ",
    "^{\\circ}",
    "\\;",
    ",\\!",
    "{,}",
    '"',
    "\\dots",
)
UNWRAPPED = (
    (r"(\\text\{)(.*?)(\})"),
    (r"(\\textbf\{)(.*?)(\})"),
    (r"(\\overline\{)(.*?)(\})"),
    (r"(\\boxed\{)(.*)(\})"),
)


@reward
def minerva_answer(completion: str, task: Task) -> Score:
    reference = task.reference if isinstance(task.reference, str) else ""
    gold = normalise((last_boxed(reference) if "\\boxed" in reference else reference) or "")
    stated = STATED.search(completion + CLOSING)
    answer = normalise(stated[1].strip()) if stated else None
    if not gold:
        return bad_gold(task, "minerva_answer", "an answer, or a solution with a box")
    if answer is None or gold == answer:
        return verdict(None if answer is None else True, "minerva_answer")
    try:
        right = same_math(gold, _closed(answer))
    except UnreadableGold:  # the normalisation breaks matrices, for one: only equal text is right then
        right = False
    return verdict(right, "minerva_answer")


def normalise(answer: str) -> str:
    """The answer without units, wrappers and shorthand, as Minerva compares it."""
    answer = answer.split("=")[-1]
    for unit in UNITS:  # while spaces still tell words apart
        answer = re.sub(rf"(?<!\\)\b{unit}\b", "", answer)
    for old, new in REPLACED:
        answer = answer.replace(old, new)
    for text in REMOVED:
        answer = _without_unit(answer, text) if text.isalpha() else answer.replace(text, "")
    answer = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", "$\\3$", answer)
    for wrapper in UNWRAPPED:
        answer = re.sub(wrapper, "\\2", answer)
    answer = re.sub(r"(frac)([^{])(.)", "frac{\\2}{\\3}", answer)
    answer = re.sub(r"(sqrt)(\[[^\]]*\])(\w)", "\\1\\2{\\3}", answer)
    answer = re.sub(r"(sqrt)(?!\[)([^{])", "sqrt{\\2}", answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", answer) else answer


def _closed(answer: str) -> str:
    """Without braces at the end that nothing opens: unwrapping `\\text{{5}}` leaves one, and lm-eval reads on."""
    while answer.endswith("}") and answer.count("}") > answer.count("{"):
        answer = answer[:-1]
    return answer


def _without_unit(answer: str, unit: str) -> str:
    """Removes a unit that is glued to its neighbours, but never a part of a LaTeX command."""
    parts = re.split(r"(\\[a-zA-Z]+)", answer)
    return "".join(part if number % 2 else part.replace(unit, "") for number, part in enumerate(parts))


def _said(answer: str) -> str:
    return f"Final Answer: The final answer is {answer}. I hope it is correct."


SELF_TEST = (
    Case(completion=_said("$[2,5)$"), reference=r"so \boxed{[2,5)}.", expected=1),
    Case(completion=_said(r"$\frac12$ cm"), reference=r"\frac{1}{2}", expected=1),
    Case(completion=_said("0.5"), reference=r"\frac{1}{2}", expected=1),
    Case(completion=_said("$x = 1,000$"), reference="1000", expected=1),
    Case(completion="Final Answer: The final answer is $5$. ", reference="5", expected=1),
    Case(completion=_said(r"$\text{{5}}$"), reference="5", expected=1),
    Case(completion=_said("5") + _said("6"), reference="6", expected=0),
    Case(completion=r"\boxed{5}", reference="5", expected=0),
    Case(completion=_said("5"), reference="", expected=FaultKind.GOLD),
)
