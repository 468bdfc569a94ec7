"""Protocols: what changes their hash, what is refused and where, and that every shipped one is whole."""

import copy
import os
from pathlib import Path

import pytest
import yaml

from alignkit.errors import ContentError, DataError, RecipeError
from alignkit.evaluate.benchmark.data import check_tasks, load_rows, tasks_sha256
from alignkit.evaluate.benchmark.protocol import Protocol, chosen_protocols, protocol_hash, read_protocol, read_suite
from alignkit.evaluate.benchmark.tasks import load_benchmark
from alignkit.recipe.lookup.find import find, list_content
from tests.unit.eval_parts import sums, write_rows

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ALIGNKIT_DATA") or ROOT.parent / "shared" / "data")
NAMES = [found.name for found in list_content("evals") if found.origin == "shelf"]
PROTOCOLS = [name for name in NAMES if not name.startswith("suites/")]
SUITES = [name for name in NAMES if name.startswith("suites/")]
ROWS = {
    "code/humaneval": 164, "code/mbpp": 399, "instructions/ifeval": 541, "math/gsm8k": 1319, "math/gsm8k-cot": 1319,
    "math/math500-minerva": 500, "math/aime24": 30, "safety/xstest": 450, "safety/harmbench": 240,
    "safety/advbench": 520, "safety/strongreject": 313, "safety/beavertails": 700, "safety/do-not-answer": 939,
    "knowledge/medqa": 1273, "knowledge/truthfulqa": 817, "math/arithmetic": 300,
}  # fmt: skip
CHANGES = {
    "version": 2, "category": "knowledge", "gold": "a|string", "id": "q", "group": "a", "control": "safety/xstest",
    "source.file": "other.jsonl", "source.sha256": "0" * 64, "source.hub": "a/b", "source.config": "c",
    "source.split": "train", "source.revision": "abc", "source.tasks_sha256": "1" * 64,
    "source.keep": {"kind": ["odd"]},
    "source.url": "https://example.org", "prompt.chat": True, "prompt.template": "{{q}} ", "prompt.system": "Be brief.",
    "prompt.shots": {"rows": [{"q": "1+1="}], "answer": "2"}, "sampling.max_new_tokens": 31,
    "sampling.temperature": 0.5, "sampling.samples": 2, "sampling.stop": ["\n", "="], "columns": {"x": "q"},
    "metrics.accuracy.reward": "exact_match", "metrics.accuracy.options": {"ignore_case": True},
    "metrics.accuracy.deadline_s": 5.0, "metrics.second": {"reward": "exact_match"}, "measure": "refusals",
    "source.options": {"digits": 2},
}  # fmt: skip


def changed(fields, key, value):
    fields = copy.deepcopy(fields)
    *path, last = key.split(".")
    place = fields
    for part in path:
        place = place[part]
    place[last] = value
    return fields


@pytest.mark.parametrize("key", CHANGES)
def test_each_single_field_changes_the_hash(tmp_path, key):
    named = sums(tmp_path)
    assert protocol_hash(changed(named.fields, key, CHANGES[key])) != named.hash


@pytest.mark.parametrize("key", ["about", "licence", "reference"])
def test_words_and_published_numbers_change_no_hash(tmp_path, key):
    named = sums(tmp_path)
    assert protocol_hash({**named.fields, key: "other"}) == named.hash


def test_the_hash_is_that_of_the_meaning_and_not_of_the_text(tmp_path):
    named = sums(tmp_path)
    shuffled = dict(reversed(yaml.safe_load(named.file.read_text()).items()))
    named.file.write_text("# a comment\n" + yaml.safe_dump(shuffled, sort_keys=False))
    assert read_protocol(str(named.file)).hash == named.hash


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"sampling": {"max_new_tokens": 30, "samples": 4}}, "at temperature 0 all samples of a task are the same"),
        (
            {"sampling": {"max_new_token": 30}},
            "sampling.max_new_token: is not a setting (did you mean 'max_new_tokens'?)",
        ),
        ({"source": {"file": "x.jsonl"}}, "a `file` needs its `sha256`"),
        ({"metrics": {}}, "needs `sampling` and `metrics`"),
        ({"category": "maths"}, "category: must be"),
        ({"prompt": {"chat": False, "template": "x", "system": "y"}}, "`system` needs `chat: true`"),
    ],
)
def test_a_mistake_is_one_located_line(tmp_path, change, wanted):
    named = sums(tmp_path)
    named.file.write_text(yaml.safe_dump({**yaml.safe_load(named.file.read_text()), **change}))
    with pytest.raises(RecipeError) as caught:
        read_protocol(str(named.file))
    assert wanted in str(caught.value)
    assert all(line.startswith("sums.yaml:") for line in caught.value.problems)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_shipped_protocol_names_its_scorers_and_licence(name):
    named = read_protocol(name)
    assert named.protocol.licence
    assert named.protocol.source.generator or named.protocol.source.sha256
    for metric in named.protocol.metrics.values():
        find("rewards", metric.reward)
    harmful = named.protocol.measure == "refusals" and "comply" not in (named.protocol.gold or "")
    assert (named.protocol.control is not None) == harmful


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_shipped_protocol_finds_its_rows_and_gold_answers(name):
    if not (DATA / "gsm8k").is_dir():
        pytest.skip("no benchmark data: set ALIGNKIT_DATA")
    named = read_protocol(name)
    tasks = load_benchmark(named, data=DATA, seed=0)
    assert len(tasks) == ROWS.get(name, len(tasks)) >= 30
    if named.protocol.measure == "choices":
        assert all(isinstance(t.reference, list) or 0 <= t.reference < len(t.columns["choices"]) for t in tasks)
    elif named.protocol.category != "code" and named.protocol.gold:
        assert all(task.reference not in (None, "") for task in tasks)
    if named.protocol.source.hub:
        check_tasks(named.protocol.source, [(t.columns["question"], t.reference) for t in tasks], name)


@pytest.mark.parametrize("name", SUITES)
def test_every_shipped_suite_names_protocols_that_exist_and_pairs_harm_with_over_refusal(name):
    _, suite = read_suite(name)
    _, chosen = chosen_protocols(name, ())
    assert {part.protocol for part in suite.parts} <= set(PROTOCOLS)
    names = {named.name for named, _ in chosen}
    assert all(named.protocol.control in names for named, _ in chosen if named.protocol.control)


def test_a_single_harm_protocol_brings_its_control_along():
    name, chosen = chosen_protocols(None, ["safety/advbench"])
    assert name == "safety/advbench"
    assert [named.name for named, _ in chosen] == ["safety/advbench", "safety/xstest"]


def test_an_unknown_name_gets_a_guess():
    with pytest.raises(ContentError, match=r"did you mean 'math/gsm8k"):
        read_protocol("math/gsm8")
    with pytest.raises(ContentError, match="did you mean 'suites/safety'"):
        read_suite("safty")


def test_missing_data_are_one_line_with_file_hash_and_command(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGNKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    named = sums(tmp_path / "elsewhere", source={"file": "x/sums.jsonl.gz", "sha256": "a" * 64, "url": "https://h/s"})
    with pytest.raises(DataError) as caught:
        load_benchmark(named, data=tmp_path / "data", seed=0)
    [line] = str(caught.value).splitlines()
    assert "sums: no data: x/sums.jsonl.gz (sha256 aaaa" in line
    assert f"curl -fL --create-dirs -o {tmp_path}/data/x/sums.jsonl https://h/s" in line
    packed = sums(tmp_path / "other", source={"file": "s.jsonl.gz", "sha256": "a" * 64, "url": "https://h/s.jsonl.gz"})
    with pytest.raises(DataError, match=r"-o \S+/s\.jsonl\.gz https://h/s\.jsonl\.gz"):
        load_benchmark(packed, data=tmp_path / "data", seed=0)


def test_the_hub_is_not_asked_when_the_file_is_there_and_is_named_when_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    named = sums(tmp_path)
    source = named.protocol.source.model_copy(update={"hub": "nobody/nothing", "tasks_sha256": "0" * 64})
    rows, origin = load_rows(source, owner="sums", data=tmp_path, seed=0)
    assert (len(rows), origin) == (20, "sums.jsonl.gz")
    (tmp_path / "sums.jsonl.gz").unlink()
    monkeypatch.setattr("alignkit.evaluate.benchmark.data.find_file", lambda source, data: None)
    with pytest.raises(DataError, match="hub dataset nobody/nothing cannot be loaded"):
        load_rows(source, owner="sums", data=None, seed=0)


def test_a_changed_byte_is_refused_compressed_or_not(tmp_path):
    named = sums(tmp_path)
    source = named.protocol.source
    plain = tmp_path / "plain" / "sums.jsonl"
    write_rows(tmp_path, "same/sums.jsonl.gz", [{"q": "0+0=", "a": "0", "kind": "even"}])
    with pytest.raises(DataError, match=r"is another file: its sha256 is [0-9a-f]{64}, wanted [0-9a-f]{64}"):
        load_rows(source, owner="sums", data=tmp_path / "same", seed=0)
    import gzip

    plain.parent.mkdir()
    plain.write_bytes(gzip.decompress((tmp_path / "sums.jsonl.gz").read_bytes()))
    assert len(load_rows(source, owner="sums", data=plain.parent, seed=0)[0]) == 20
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "sums.jsonl.gz").write_bytes((tmp_path / "sums.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        load_rows(source, owner="sums", data=tmp_path / "torn", seed=0)


def test_rows_from_the_hub_must_be_the_same_questions_and_answers(tmp_path):
    source = sums(tmp_path).protocol.source.model_copy(
        update={"hub": "a/b", "tasks_sha256": tasks_sha256([("q", "a")])}
    )
    check_tasks(source, [("q", "a")], "sums")
    for other in ([("q", "b")], [("q ", "a")], [("q", "a"), ("q", "a")], []):
        with pytest.raises(DataError, match="gives other questions or answers"):
            check_tasks(source, other, "sums")


def test_templates_and_expressions_that_do_not_fit_name_what_the_row_has(tmp_path):
    for change, wanted in (
        ({"prompt": {"chat": False, "template": "{{question}}"}}, "'question' is undefined; it has q, a, kind"),
        ({"gold": "answer"}, "`answer` is not in the row; it has q, a, kind"),
        ({"gold": "a.missing.deeper"}, "does not fit the row"),
        ({"id": "kind"}, "gives two rows the same name"),
        ({"prompt": {"chat": False, "template": "{{q.__class__.__mro__}}"}}, "does not fit the row"),
    ):
        with pytest.raises(DataError) as caught:
            load_benchmark(sums(tmp_path, **change), data=tmp_path, seed=0)
        assert wanted in str(caught.value), change


def test_a_protocol_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="`prompt` is missing"):
        Protocol(version=1, about="", category="math", licence="", source={"generator": "parity"})
