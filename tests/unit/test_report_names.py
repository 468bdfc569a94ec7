"""The declared metric names, their guard, and the glossary that is generated from them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from alignkit.errors import ContentError
from alignkit.report.glossary import columns, glossary
from alignkit.run_folder.names import MEANINGS, check_names, meaning
from alignkit.train.health import WATCHED
from alignkit.types.batch import Batch

ROOT = Path(__file__).parents[2]


def test_every_name_is_area_slash_quantity_with_a_meaning_on_one_line():
    for name, text in MEANINGS.items():
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?/([a-z_]+|<[a-z]+>)", name), name
        assert text, name
        assert "\n" not in text, name
        assert "|" not in text, name


def test_every_time_names_its_unit():
    assert all(name.endswith("_s") for name in MEANINGS if name.startswith("time/"))


def test_a_mistyped_name_is_refused_with_a_guess():
    with pytest.raises(ContentError, match=r"'loss/polcy' is not declared .* did you mean loss/policy\?"):
        check_names(["reward/mean", "loss/polcy"])
    with pytest.raises(ContentError, match="goes under user/"):
        check_names(["qqq"])


def test_a_family_takes_any_last_part_but_not_an_empty_one():
    check_names(["reward/part/math_answer", "reward/fault/timeout", "user/my_number"])
    assert meaning("reward/part/x") == MEANINGS["reward/part/<name>"]
    for bad in ("reward/part/", "reward/part/a/b", "user"):
        with pytest.raises(ContentError):
            check_names([bad])


def test_code_and_table_name_the_same_metrics():
    """Every name written out in the package is declared, and every declared quantity is written by some file."""
    sources = [path for path in (ROOT / "alignkit").rglob("*.py") if path.name != "names.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    areas = "|".join({name.split("/")[0] for name in MEANINGS})
    check_names(re.findall(rf'"((?:{areas})/[a-z_]+(?:/[a-z_]+)?)"', code))
    for name in MEANINGS:
        quantity = name.split("/")[1]
        word = quantity.removesuffix("_s") if name.startswith("time/") else quantity
        assert re.search(rf"\b{re.escape(word)}\b", code) or "<" in name, f"{name} is declared but never logged"


def test_every_metric_that_a_health_rule_reads_is_declared():
    check_names(WATCHED)


def test_the_glossary_in_the_docs_is_the_generated_one():
    assert (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8") == glossary(), "run `make glossary`"


def test_every_column_of_the_batch_but_its_blocks_is_documented():
    documented = {name for name, _, _ in columns()}
    assert {field.name for field in fields(Batch)} - documented == {"blocks"}
    assert all(len(text) > 9 for _, _, text in columns())
