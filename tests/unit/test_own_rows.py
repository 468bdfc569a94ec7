"""Rows from a function of the user's own: seeded, checked, and one line when something is wrong with it."""

import pytest

from alignkit.cli.main import run
from alignkit.data.asked import check_asked
from alignkit.data.rows import Row
from alignkit.data.sources import load_tasks
from alignkit.data.tasks import make_task
from alignkit.errors import ContentError, DataError, RecipeError
from alignkit.recipe.read import read_recipe
from alignkit.recipe.schema import Data
from alignkit.types.task import Task

MINE = '''"""Sums of my own."""
from random import Random


def rows(*, seed, split, largest=9):
    random = Random(f"{seed} {split}")
    while True:
        a, b = random.randint(0, largest), random.randint(0, largest)
        yield {"prompt": f"{a}+{b}?", "reference": str(a + b)}


def listed(count: int):
    return [{"messages": [{"from": "human", "value": str(n)}]} for n in range(count)]


def broken(seed):
    yield {"prompt": "a"}
    raise ValueError("no more\\nof it")


def texts():
    return ["a", "b"]


def one():
    return {"prompt": "a"}


def nothing():
    return None


def empty():
    return []


def numbered():
    return [{1: "a"}]


def refuses():
    raise __import__("alignkit.errors").errors.DataError("mine: is not there; fetch it")


CONSTANT = [{"prompt": "a"}]
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def load(folder, name, seed=0, **settings):
    return load_tasks(Data(source=f"./mine.py:{name}", **settings), seed=seed, beside=folder)


def test_a_function_is_drawn_from_by_seed_and_split_up_to_the_limit(folder):
    def prompts(**settings):
        return [task.messages[0]["content"] for task in load(folder, "rows", limit=20, **settings)]

    assert prompts() == prompts()
    assert prompts() != prompts(seed=1)
    assert prompts() != prompts(split="heldout")
    assert set(prompts(options={"largest": 0})) == {"0+0?"}
    tasks = load(folder, "rows", limit=2)
    assert [task.id for task in tasks] == ["./mine.py:rows:train/0", "./mine.py:rows:train/1"]
    assert all(eval(task.messages[0]["content"][:-1]) == int(task.reference) for task in tasks)


def test_its_rows_are_read_as_those_of_a_file(folder):
    tasks = load(folder, "listed", options={"count": 3})
    assert [task.messages for task in tasks] == [({"role": "user", "content": str(n)},) for n in range(3)]


def test_a_module_of_the_environment_is_found_by_its_dotted_name(folder, monkeypatch):
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "sums.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(folder))
    assert len(load_tasks(Data(source="my_package.sums:rows", limit=4), seed=0)) == 4


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("broken", {}, "raised ValueError: no more of it (mine.py line 18)"),
        ("texts", {}, "row 1: is str 'a'; return (or yield) one dictionary for each row"),
        ("numbered", {}, "row 1: is dict"),
        ("one", {}, "gives dict"),
        ("nothing", {}, "gives NoneType 'None'; return (or yield) one dictionary"),
        ("empty", {}, "made no rows for split 'train'"),
        ("CONSTANT", {}, "is list, not a function"),
        ("listed", {}, "needs count; give them under data.options"),
        ("rows", {"options": {"largets": 3}}, "no option largets (did you mean 'largest'?); it takes largest"),
        ("rows", {"options": {"seed": 3}}, "no option seed"),
        ("refuses", {}, "mine: is not there; fetch it"),
    ],
)
def test_a_function_that_gives_no_rows_is_one_line(folder, name, settings, words):
    with pytest.raises(DataError) as caught:
        load(folder, name, **settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_that_is_not_there_is_named_with_the_nearest(folder):
    with pytest.raises(ContentError, match=r"does not define 'row'.*did you mean 'rows'"):
        load(folder, "row")
    with pytest.raises(ContentError, match="there is no file"):
        load_tasks(Data(source="./nope.py:rows"), seed=0, beside=folder)
    with pytest.raises(ContentError, match=r"write `./mine.py:NAME`"):
        load_tasks(Data(source="./mine.py"), seed=0, beside=folder)
    with pytest.raises(ContentError, match=r"there is no module 'nope.deeper' in this environment"):
        load_tasks(Data(source="nope.deeper:rows"), seed=0, beside=folder)


def test_recipes_know_the_function_and_its_options_without_importing_it(folder):
    (folder / "mine.py").write_text(MINE + "\nraise SystemExit('imported')\n")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "model: {scratch: {}}\ndata: {source: './mine.py:rows', options: {largest: 3}, limit: 8}\n"
        "algorithm: {type: sft}\noptimizer: {lr: 1e-3}\ntrain: {steps: 1, batch: 2}\n"
    )
    assert read_recipe(recipe).stages[0].data.source == "./mine.py:rows"
    for wrong, words in (
        ("data.options={large: 3}", "is not an option of './mine.py:rows'"),
        (f"data.source={folder}/mine.py:rowz", "does not define 'rowz' (did you mean 'rows'?)"),
    ):
        with pytest.raises(RecipeError) as caught:
            read_recipe(recipe, [wrong])
        assert words in str(caught.value)


def test_check_shows_what_a_function_makes(folder, monkeypatch, capsys):
    deep = folder / "a" / "b" / "c" / "d"  # a path that is taken from the shelf twice leads elsewhere from here
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    (deep / "mine.py").write_text('def rows(seed):\n    return [{"text": "a"}, {"text": "b"}]\n')
    assert run(["check", "./mine.py:rows"]) == 0
    assert "./mine.py:rows: 2 rows" in capsys.readouterr().out


def test_whole_texts_are_no_prompts_to_sample_answers_for():
    asked = Task(id="rows/0", text="a")
    check_asked([asked])
    with pytest.raises(DataError, match=r"task rows/1: has no prompt to answer.*data.columns \(prompt: text\)"):
        check_asked([asked, Task(id="rows/1", text="", columns={"text": "a", "completion": "a"})])


@pytest.mark.parametrize("column", ["images", "videos", "audios"])
def test_rows_with_media_are_refused_and_an_empty_list_of_them_is_none(column):
    data = Data(source="rows.jsonl")
    row = {"prompt": "What is this? <image>", column: ["a.png"]}
    with pytest.raises(DataError, match=f"line 3: its column `{column}` holds what no model here can see"):
        make_task(Row("line 3", row), data, source="rows", number=0)
    assert make_task(Row("line 3", {**row, column: []}), data, source="rows", number=0).messages
