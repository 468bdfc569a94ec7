"""1 when the completion obeys every checkable instruction of the row, as IFEval counts a prompt, else 0.

The row's `instruction_id_list` and `kwargs` say which (25 kinds: words, paragraphs, case, language, JSON, ...).
`mode: loose` also tries the completion without its first line, its last line and its asterisks, and lets each
instruction choose. `per: instruction` is the share of instructions obeyed instead. The part `share` is always kept.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, bad_gold
from alignkit.rewards.verify.instructions import BadInstruction, follows, loose_forms
from alignkit.rewards.verify.thoughts import spoken
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task


@reward
def instruction_following(
    completion: str,
    task: Task,
    *,
    mode: Literal["strict", "loose"] = "strict",
    per: Literal["prompt", "instruction"] = "prompt",
) -> Score:
    try:
        instructions = read_instructions(task)
        forms = [spoken(completion)] if mode == "strict" else list(loose_forms(spoken(completion)))
        obeyed = [any(follows(name, values, form) for form in forms) for name, values in instructions]
    except BadInstruction as error:
        return bad_gold(task, "instruction_following", f"`instruction_id_list` with `kwargs` ({error})")
    share = sum(obeyed) / len(obeyed)
    value = float(all(obeyed)) if per == "prompt" else share
    return Score(value=value, parts={"instruction_following": value, "share": share})


def read_instructions(task: Task) -> list[tuple[str, Mapping[str, Any]]]:
    row = task.reference if isinstance(task.reference, Mapping) else task.columns
    names, values = row.get("instruction_id_list"), row.get("kwargs")
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError as error:
            raise BadInstruction(f"kwargs is no JSON: {error}") from error
    if not isinstance(names, list) or not isinstance(values, list) or not names or len(names) != len(values):
        raise BadInstruction("the two lists are missing, empty or of different lengths")
    if not all(isinstance(name, str) for name in names) or not all(isinstance(one, Mapping) for one in values):
        raise BadInstruction("wanted a list of names and a list of objects")
    return list(zip(names, values, strict=True))


def rows(*instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"instruction_id_list": [name for name, _ in instructions], "kwargs": [values for _, values in instructions]}


QUIET = rows(("punctuation:no_comma", {}), ("change_case:english_lowercase", {}))
TITLED = rows(("startend:quotation", {}))
BROKEN = rows(("punctuation:no_semicolon", {}))

SELF_TEST = (
    Case(completion="this is all in lower case", reference=QUIET, expected=1),
    Case(completion="this is, sadly, not it", reference=QUIET, expected=0),
    Case(completion="this is, sadly, not it", reference=QUIET, options={"per": "instruction"}, expected=0.5),
    Case(completion="<think>A, B</think>this is all in lower case", reference=QUIET, expected=1),
    Case(completion='Here it is:\n"to be or not to be"', reference=TITLED, expected=0),
    Case(completion='Here it is:\n"to be or not to be"', reference=TITLED, options={"mode": "loose"}, expected=1),
    Case(completion="", reference=QUIET, expected=0),
    Case(completion="", reference=QUIET, options={"mode": "loose", "per": "instruction"}, expected=0),
    Case(completion="a; b", reference=BROKEN, expected=FaultKind.GOLD),
    Case(completion="a", reference=rows(("startend:end_checker", {})), expected=FaultKind.GOLD),
    Case(completion="a", reference=None, expected=FaultKind.GOLD),
)
