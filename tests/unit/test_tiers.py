"""Which tests `make test` leaves to CI, and which slow ones CI leaves to `make test-release`."""

from tests.tiers import is_left_out, without_a_test

TABLE = {
    "tests/a/test_x.py::test_every": ["grpo", "zero3*"],
    "tests/a/test_y.py": ["zero3"],
    "tests/a/test_z.py::test_long": [],
}


def test_of_a_kind_the_named_ones_run_and_the_others_are_left_out():
    assert not is_left_out("tests/a/test_x.py::test_every[grpo]", TABLE)
    assert not is_left_out("tests/a/test_x.py::test_every[zero3-2-ranks [tied]]", TABLE)
    assert is_left_out("tests/a/test_x.py::test_every[ppo]", TABLE)
    assert is_left_out("tests/a/test_x.py::test_every[grpo2]", TABLE)
    assert not is_left_out("tests/a/test_x.py::test_everything[ppo]", TABLE)


def test_of_a_file_what_has_no_parameters_runs_unless_nothing_of_it_does():
    assert not is_left_out("tests/a/test_y.py::test_plain", TABLE)
    assert is_left_out("tests/a/test_y.py::test_two[zero2]", TABLE)
    assert is_left_out("tests/a/test_z.py::test_long", TABLE)


def test_a_line_or_a_pattern_that_no_test_is_of_is_named():
    tests = ["tests/a/test_x.py::test_every[grpo]", "tests/a/test_y.py::test_two[zero3]"]
    assert without_a_test(tests, TABLE) == ["tests/a/test_z.py::test_long", "tests/a/test_x.py::test_every [zero3*]"]
