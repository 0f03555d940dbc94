"""The rooms of the house: who may import whom, read from the source."""

import ast
from graphlib import TopologicalSorter

import pytest
from conftest import REPOSITORY

SCIENCE = {"module", "generator", "losses", "latents", "optimizers", "encoding"}
OWNERS = {"errors", "images", "files", "locks", "class_path", "checkpoint_format", "processes", "devices"}


def imports_of(path):
    """The modules of the package that a file imports, also inside of functions; what is for types alone left out."""
    tree = ast.parse(path.read_text())
    typing = {id(child) for node in tree.body if isinstance(node, ast.If) for child in ast.walk(node)}
    return {
        node.module.removeprefix("glo_lightning.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glo_lightning.")
        if id(node) not in typing
    }


PACKAGE = REPOSITORY / "glo_lightning"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): imports_of(path)
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def room(name):
    """The modules of a folder."""
    return {file for file in FILES if file.partition(".")[0] == name}


TRAINING = room("training") | {"cli", "flags", "callbacks"}


def rooms_imported_by(names):
    return {other.partition(".")[0] for name in names for other in FILES[name]}


def test_no_circle_of_imports():
    order = list(TopologicalSorter(FILES).static_order())  # raises CycleError
    assert set(FILES) <= set(order)


@pytest.mark.parametrize(
    ("room", "may"),
    [
        (SCIENCE, SCIENCE | OWNERS),
        (OWNERS, OWNERS),
        (room("priors"), OWNERS | {"latents", "priors"}),
        (room("data"), OWNERS | {"data"}),
        (room("runs"), OWNERS | {"data", "runs"}),
        (TRAINING, SCIENCE | OWNERS | {"priors", "data", "runs"} | {file.partition(".")[0] for file in TRAINING}),
        (room("explore"), SCIENCE | OWNERS | {"priors", "data", "runs", "explore"}),
        (room("browser"), SCIENCE | OWNERS | {"priors", "data", "runs", "explore", "browser"}),
    ],
    ids=["science", "owners", "priors", "data", "runs", "training", "explore", "browser"],
)
def test_a_room_imports_what_it_may(room, may):
    assert rooms_imported_by(room) <= may


def test_nobody_imports_the_command_line():
    assert not [
        name for name, imported in FILES.items() if {"cli", "flags"} & imported and name not in ("cli", "flags")
    ]


def test_no_command_imports_a_study():
    studies = {path.stem for path in (REPOSITORY / "scripts" / "studies").rglob("*.py")}
    for path in (REPOSITORY / "scripts").glob("*.py"):
        named = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not studies & named


def lines_of(function):
    """The lines of a function without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    without = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - without


def parameters_of(function):
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in every if argument is not None and argument.arg not in ("self", "cls")]


@pytest.mark.parametrize("name", ["priors", "explore", "browser"])
def test_files_and_functions_are_short(name):
    for path in (PACKAGE / name).rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert lines_of(node) <= 40, (path, node.name)
                assert len(parameters_of(node)) <= 8, (path, node.name)
