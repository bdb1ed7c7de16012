"""The exercises as the notebooks put them: each one's own stub, solution, and at least four wrong answers."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

import lecture7_utils as l7
from lecture7_utils.classroom import checks
from tests.notebooks.anatomy import ROOT, code, tags

ASKED = re.compile(r'l7\.check\("(\w+)"')


def cells() -> dict[str, dict[str, str]]:
    """{"1a": {"exercise": source, "solution": source}} of all lessons that are there."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for _, cell in code(nbformat.read(path, as_version=4)):
            for kind in {"exercise", "solution"} & set(tags(cell)):
                (name,) = ASKED.findall(cell.source)
                assert name[0] == path.name[1]
                assert kind not in found.setdefault(name, {}), f"{name} is there twice"
                found[name][kind] = cell.source
    return found


CELLS = cells()


def wrong_answers() -> dict[str, int]:
    """How many wrong answers the tests of the checks put to each exercise."""
    count: dict[str, int] = {}
    for path in sorted(Path(__file__).parent.glob("test_check*.py")):
        module = importlib.import_module(f"tests.classroom.{path.stem}")
        for case in getattr(module, "WRONG", ()):
            name = case[0] if isinstance(case[0], str) else "9a"  # its file judges networks, and nothing else
            count[name] = count.get(name, 0) + 1
    return count


def run(source: str, capsys) -> str:
    """What a cell prints when it runs after the setup cell alone."""
    names = {"l7": l7, "torch": torch, "F": F}
    if "offers" in source:
        names["offers"] = l7.offers("cpu")
    capsys.readouterr()
    exec(compile(source, "cell", "exec"), names)
    return capsys.readouterr().out


def test_notebooks_and_checks_have_the_same_exercises():
    lessons = {name[0] for name in CELLS}
    assert set(CELLS) == {name for name in checks._EXERCISES if name[0] in lessons}
    assert all(set(kinds) == {"exercise", "solution"} for kinds in CELLS.values())


@pytest.mark.parametrize("name", CELLS)
def test_the_stub_is_not_yet_and_the_solution_is_right(name, capsys):
    assert run(CELLS[name]["exercise"], capsys).startswith(f"{name}  Not yet: ")
    assert run(CELLS[name]["solution"], capsys).startswith(f"{name}  ✓ ")


def test_each_exercise_refuses_at_least_four_wrong_answers():
    count = wrong_answers()
    assert {name: count.get(name, 0) for name in checks._EXERCISES if count.get(name, 0) < 4} == {}


@pytest.mark.parametrize("name", CELLS)
def test_the_check_asks_for_the_function_that_the_stub_defines(name):
    (stub,) = (node for node in ast.parse(CELLS[name]["exercise"]).body if not isinstance(node, ast.Expr))
    if isinstance(stub, ast.FunctionDef):
        asked = f"{stub.name}({', '.join(argument.arg for argument in stub.args.args)})"
        assert checks._EXERCISES[name].signature == asked


NAMED = re.compile(r"\b([A-Za-z_][\w.]*)\(")


def unknown_names(module: Path, lesson: str) -> set[str]:
    """Functions that the texts of a lesson's checks name and that its learner cannot know."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [node.value for node in constants if id(node) not in alone]
    found = {name for text in texts if isinstance(text, str) for name in NAMED.findall(text)}
    return {
        name
        for name in found
        if not re.search(rf"\b{re.escape(name)}\b", lesson)
        and not any(hasattr(owner, name.split(".")[-1]) for owner in (torch, torch.Tensor, F))
    }


@pytest.mark.parametrize("number", range(10))
def test_messages_name_only_functions_of_their_lesson(number):
    (notebook,) = (ROOT / "notebooks").glob(f"0{number}_*.ipynb")
    module = Path(checks.__file__).parent / f"lesson{number}.py"
    lesson = "\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells)
    assert unknown_names(module, lesson) == set()


def test_a_function_that_the_lesson_lacks_is_found(tmp_path):
    module = tmp_path / "lesson0.py"
    module.write_text(
        '"""Of flat(x)."""\nHINT = f"{3}: take torch.stack(parts), then shaped(x)"\nAND = "or flat_map(x)"\n'
    )
    assert unknown_names(module, "def shaped(x):") == {"flat_map"}
