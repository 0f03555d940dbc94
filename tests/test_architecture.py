"""The rooms of the house: who may import whom, read from the source."""

import ast
from graphlib import TopologicalSorter

import pytest
from conftest import REPOSITORY

SCIENCE = {"module", "generator", "losses", "latents", "pca", "optimizers", "encoding"}
OWNERS = {"errors", "images", "files", "locks", "parts", "memory", "checkpoint_format", "distributed", "devices"}
OWNERS |= {"bit_depth", "lightning_internals", "streams", "progress", "loaders"}


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


def rooms_imported_by(names):
    return {other.partition(".")[0] for name in names for other in FILES[name]}


def test_no_circle_of_imports():
    order = list(TopologicalSorter(FILES).static_order())  # raises CycleError
    assert set(FILES) <= set(order)


@pytest.mark.parametrize(
    ("room", "may"),
    [
        (SCIENCE - {"module"}, SCIENCE | OWNERS),
        ({"module"}, SCIENCE | OWNERS | {"training", "explore"}),  # what Lightning and the Hub ask of a model itself
        (OWNERS, OWNERS),
        (room("priors"), OWNERS | {"latents", "priors"}),
        (room("data"), OWNERS | {"data"}),
        (room("runs"), OWNERS | {"data", "runs"}),
        (room("training"), SCIENCE | OWNERS | {"priors", "data", "runs", "training"}),
        (room("explore"), SCIENCE | OWNERS | {"priors", "data", "runs", "explore"}),
        (room("browser"), SCIENCE | OWNERS | {"priors", "data", "runs", "explore", "browser"}),
        (room("commands"), OWNERS | SCIENCE | {"priors", "data", "runs", "training", "explore", "browser", "commands"}),
    ],
    ids=["science", "module", "owners", "priors", "data", "runs", "training", "explore", "browser", "commands"],
)
def test_a_room_imports_what_it_may(room, may):
    assert rooms_imported_by(room) <= may


def test_nobody_imports_the_command_line():
    others = FILES.keys() - room("training") - room("commands") - {"module", "__main__"}
    assert not {"training", "commands"} & rooms_imported_by(others)
    beyond = {name for name in FILES["module"] if name.startswith(("training", "explore"))}
    assert beyond == {"training.callbacks", "explore.exported"}
    assert [name for name, imported in FILES.items() if "training.cli" in imported] == ["commands.train"]


def functions_of(tree):
    """Each function with the class that it is a method of."""
    owners = {id(child): node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
    return [(node, owners.get(id(node))) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_and_functions_are_small(name):
    """Constructors may take more than eight arguments: some are the command line."""
    path = PACKAGE / (name.replace(".", "/") + ".py")
    path = path if path.exists() else PACKAGE / name.replace(".", "/") / "__init__.py"
    assert len(path.read_text().splitlines()) <= 300
    for function, owner in functions_of(ast.parse(path.read_text())):
        docstring = ast.get_docstring(function, clean=False) or ""
        lines = function.end_lineno - function.lineno + 1 - len(docstring.splitlines())
        assert lines <= 40, f"{function.name}: {lines} lines"
        arguments = [*function.args.args, *function.args.kwonlyargs][bool(owner) :]
        assert len(arguments) <= 8 or function.name == "__init__", f"{function.name}: {len(arguments)} parameters"


def test_no_command_imports_a_study():
    studies = {path.stem for path in (REPOSITORY / "scripts" / "studies").rglob("*.py")}
    for path in (REPOSITORY / "scripts").glob("*.py"):
        named = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not studies & named
