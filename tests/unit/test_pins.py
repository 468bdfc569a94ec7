"""Pins below the floor of a known vulnerability are named, and the page on licences knows every pin."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = runpy.run_path(str(ROOT / ".ci" / "pins.py"))
LICENCES = runpy.run_path(str(ROOT / ".ci" / "licences.py"))
FLOORS = """
[[floor]]
package = "Some_Parser"
version = "2.10.0"
id = "CVE-2099-0001"
what = "a file runs code"
"""


def check(tmp_path, capsys, pins, floors=FLOORS):
    (tmp_path / "pins.txt").write_text(pins)
    (tmp_path / "floors.toml").write_text(floors)
    code = PINS["main"]([str(tmp_path / "pins.txt"), str(tmp_path / "floors.toml")])
    return code, capsys.readouterr()


def test_no_pin_lies_below_the_floor_of_a_known_vulnerability(capsys):
    assert PINS["main"]([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{len(pins())} pins: {len(covered())} have a floor ({len(floors())} vulnerabilities), "
        f"{len(pins()) - len(covered())} none"
    ]
    assert len(covered()) >= 40


@pytest.mark.parametrize(
    ("version", "code"), [("2.9.9", 1), ("2.10.0rc1", 1), ("2.10.0", 0), ("2.10.0.post1", 0), ("3.0", 0)]
)
def test_an_old_pin_is_named_with_its_floor_and_its_id(version, code, tmp_path, capsys):
    got, said = check(tmp_path, capsys, f"# a list\nsome-parser=={version}\nother==1.0\n")
    assert got == code
    assert said.out.splitlines()[-1] == "2 pins: 1 have a floor (1 vulnerabilities), 1 none"
    named = f"BROKEN some-parser=={version} lies below 2.10.0: CVE-2099-0001, a file runs code"
    assert (named in said.out) == bool(code)


def test_each_real_floor_would_name_the_version_before_it():
    for floor in floors():
        lines = PINS["below"]({floor.names[0]: "0.0.0"}, [floor])
        assert len(lines) == 1
        assert floor.id in lines[0]
        assert floor.version in lines[0]


def test_a_floor_of_what_is_not_pinned_any_more_is_named(tmp_path, capsys):
    code, said = check(tmp_path, capsys, "other==1.0\n")
    assert code == 1
    assert "BROKEN some-parser has a floor (CVE-2099-0001) but no pin" in said.out


def test_a_renamed_build_is_held_against_the_floor_of_the_package_it_is(tmp_path, capsys):
    code, said = check(tmp_path, capsys, "some-parser-cpu==2.9\n", FLOORS + 'pin = "some-parser-cpu"\n')
    assert code == 1
    assert "some-parser-cpu==2.9 lies below 2.10.0" in said.out


@pytest.mark.parametrize("line", ["other>=1.0", "other", "other==not.a.version!"])
def test_a_line_that_is_no_pin_is_a_wrong_input(line, tmp_path, capsys):
    code, said = check(tmp_path, capsys, f"{line}\n", FLOORS.replace("Some_Parser", "other"))
    assert code == 2
    assert said.err.startswith("pins: ")


def test_the_page_on_licences_names_every_pin_with_its_version():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    missing = [f"{name}=={version}" for name, version in pins().items() if f"\n| {name} | {version} | " not in page]
    assert missing == [], "run: make licences"


def test_the_page_names_the_gpus_pins_too_by_what_the_index_says_of_those_that_are_not_installed():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    there = PINS["pinned"](LICENCES["GPU_PINS"].read_text(encoding="utf-8"))
    missing = [f"{name}=={version}" for name, version in there.items() if f"\n| {name} | {version} | " not in page]
    assert missing == [], "run: make lock-gpu licences"
    noted = LICENCES["noted"](LICENCES["GPU_LICENCES"].read_text(encoding="utf-8"))
    assert {one.name: one.version for one in noted} == LICENCES["gpus_own"](), "run: make lock-gpu"
    assert all(f"| {one.name} | {one.version} | {one.words.replace('|', '/')} |" in page for one in noted)


def test_the_indexs_words_are_the_expression_else_the_field_else_the_classifiers_else_nothing_is_guessed():
    classifier = "License :: Other/Proprietary License"
    lines = LICENCES["of_the_index"]([
        {"name": "A_b", "version": "1", "license_expression": "MIT", "license": "BSD", "classifier": [classifier]},
        {"name": "c", "version": "2", "license": "Apache\n 2.0", "classifier": [classifier]},
        {"name": "d", "version": "3", "classifier": ["Topic :: X", classifier]},
        {"name": "e", "version": "4"},
    ])  # fmt: skip
    assert lines == ["a-b==1: MIT", "c==2: Apache", "d==3: Other/Proprietary License", "e==4: not stated"]
    assert [one.kind for one in LICENCES["noted"]("\n".join(lines))] == [
        "permissive", "permissive", "proprietary", "not stated"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("MIT", "permissive"),
        ("Apache Software License", "permissive"),
        ("LGPL-2.1-or-later", "LGPL"),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", "LGPL"),
        ("GNU General Public License v3 (GPLv3)", "GPL or AGPL"),
        ("AGPL-3.0-only", "GPL or AGPL"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "MPL"),
        ("Intel End User License Agreement for Developer Tools", "proprietary"),
        ("not stated; its licence file is MIT", "not stated"),
        ("a licence nobody knows", "not stated"),
    ],
)
def test_the_strictest_word_decides_the_kind(words, kind):
    assert LICENCES["kind"](words) == kind


def pins() -> dict[str, str]:
    return PINS["pinned"](PINS["PINS"].read_text())


def floors() -> list:
    return PINS["floors"](PINS["FLOORS"].read_text())


def covered() -> set[str]:
    return {name for floor in floors() for name in floor.names} & pins().keys()
