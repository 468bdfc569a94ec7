"""What to write into a recipe when a column is missing, guessed from the columns that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ASKED = ("question", "problem", "instruction", "query", "input", "user", "prompts", "user_prompt", "goal", "text")
GOLD = ("answer", "final_answer", "solution", "ground_truth", "reference_answer", "expected_answer", "target", "gold")
SAID = ("response", "output", "answer", "solution", "completion_text", "target", "reply", "generation", "text")
SIDES = (
    ("response_j", "response_k"),
    ("preferred", "dispreferred"),
    ("better", "worse"),
    ("winner", "loser"),
    ("positive", "negative"),
    ("accepted", "declined"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
)
GOLDS_WITHIN = (("reward_model", "ground_truth"), ("extra_info", "answer"), ("metadata", "answer"))


def cure_for(name: str, columns: Mapping[str, Any]) -> str:
    """The line of `data.columns` (or the template) that gives the column `name`, for the end of an error.

    columns: those of the row. The nearest layout is named by the columns that it was recognised by; nothing is used
    that the recipe does not name.
    """
    there = {column.lower(): column for column, value in columns.items() if value is not None}
    if name == "prompt":
        return _prompt(there)
    if name in ("chosen", "rejected"):
        pair = next((pair for pair in SIDES if all(side in there for side in pair)), None)
        if pair is not None:
            return f"write data.columns: {{chosen: {there[pair[0]]}, rejected: {there[pair[1]]}}}"
    if name == "completion" and (said := _first(SAID, there)):
        return f"{said} may be it: write data.columns: {{completion: {said}}}"
    if name == "reference":
        return reference_cure(columns) or "name one with data.columns (reference: THEIRS)"
    if name == "label" and (tag := _first(("kto_tag", "is_good", "thumbs_up", "correct", "score"), there)):
        return f"write data.columns: {{label: {tag}}}"
    return f"name one with data.columns ({name}: THEIRS)"


def reference_cure(columns: Mapping[str, Any]) -> str | None:
    """The line that names the gold answer of a row without a reference; None where nothing looks like one."""
    for outer, inner in GOLDS_WITHIN:
        if isinstance(columns.get(outer), Mapping) and columns[outer].get(inner) is not None:
            return f"write data.columns: {{reference: {outer}.{inner}}}"
    gold = _first(GOLD, {column.lower(): column for column, value in columns.items() if value is not None})
    return f"write data.columns: {{reference: {gold}}}" if gold else None


def _prompt(there: Mapping[str, str]) -> str:
    asked = _first(ASKED, there)
    if asked is None:
        return "name one with data.columns (prompt: THEIRS) or write data.template"
    if asked == "instruction" and "context" in there:
        return f'write data.template: "{{{asked}}}\\n{{{there["context"]}}}"' + (
            f" and data.columns: {{completion: {there['response']}}}" if "response" in there else ""
        )
    gold = _first(GOLD, there)
    if gold is None:
        said = _first(SAID, {key: value for key, value in there.items() if value != asked})
        also = f", completion: {said}" if said else ""
        return f"name one with data.columns (prompt: {asked}{also}) or write data.template"
    return (
        f"write data.columns: {{prompt: {asked}, reference: {gold}}} where rewards compare with '{gold}', "
        f"{{prompt: {asked}, completion: {gold}}} where it is learnt"
    )


def _first(names: tuple[str, ...], there: Mapping[str, str]) -> str | None:
    return next((there[name] for name in names if name in there), None)
