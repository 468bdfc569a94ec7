"""1 when the completion is JSON that fits the row's JSON Schema, else 0.

The JSON is the last fenced block (`json` or no language), else the text of the last `<answer>` tag, else the whole
completion; numbers such as NaN and keys given twice are no JSON. The schema is the column `schema`, else the reference,
as an object or as text; it may not refer to another address. Anything that is no JSON scores 0 with a `parse` note.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from alignkit.rewards.base import reward
from alignkit.rewards.verdict import Case, Outcome, bad_gold, judged
from alignkit.rewards.verify.thoughts import spoken, tagged_answer
from alignkit.types.score import FaultKind, Score
from alignkit.types.task import Task

MOST_CHARACTERS = 100_000
FENCE = re.compile(r"^```(?:json|JSON)?[ \t]*\n(?P<json>.*?)^```", re.M | re.S)


@reward
def json_schema(completion: str, task: Task) -> Score:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        schema = read_schema(task)
        kind = validator_for(schema)
        kind.check_schema(schema)
        if not schema.keys() & kind.VALIDATORS.keys():
            raise ValueError("it has no rule")
    except (ValueError, SchemaError, RecursionError) as error:
        return bad_gold(task, "json_schema", f"a JSON Schema ({' '.join(str(error).split())[:80]})")
    try:
        value = strict_json(find_json(spoken(completion)))
    except (ValueError, RecursionError):
        return judged(Outcome.UNPARSED, "json_schema", "no JSON in the completion")
    try:
        fits = kind(schema, registry=Registry()).is_valid(value)  # an empty registry fetches nothing
    except Unresolvable as error:
        return bad_gold(task, "json_schema", f"a JSON Schema without outside references ({error})")
    return judged(Outcome.RIGHT if fits else Outcome.WRONG, "json_schema")


def read_schema(task: Task) -> Any:
    schema = task.columns.get("schema", task.reference)
    schema = json.loads(schema) if isinstance(schema, str) else schema
    if not isinstance(schema, Mapping):
        raise ValueError("it is no object")
    return dict(schema)


def find_json(text: str) -> str:
    blocks = [match["json"] for match in FENCE.finditer(text)]
    tagged = tagged_answer(text)
    return blocks[-1] if blocks else text if tagged is None else tagged


def strict_json(text: str) -> Any:
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    return json.loads(text, parse_constant=refuse, object_pairs_hook=without_twins)


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


PERSON = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}

SELF_TEST = (
    Case(completion='{"age": 3}', reference=PERSON, expected=1),
    Case(completion='Here:\n```json\n{"age": 3}\n```\nBye', reference=PERSON, expected=1),
    Case(completion='<answer>{"age": 3}</answer>', reference='{"required": ["age"]}', expected=1),
    Case(completion='{"age": -3}', reference=PERSON, expected=0),
    Case(completion='{"age": NaN}', reference=PERSON, expected=0),
    Case(completion='{"age": -1, "age": 3}', reference=PERSON, expected=0),
    Case(completion="age 3", reference=PERSON, expected=0),
    Case(completion="[" * 50_000, reference=PERSON, expected=0),
    Case(completion="{}", reference={"$ref": "http://127.0.0.1:9/schema"}, expected=FaultKind.GOLD),
    Case(completion="{}", reference={"type": "thing"}, expected=FaultKind.GOLD),
    Case(completion="{}", reference=None, expected=FaultKind.GOLD),
)
