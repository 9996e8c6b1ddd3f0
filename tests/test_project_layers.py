"""Imports point one way, down, and in no circle: what may import what is read off the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT

FOLDERS = {
    "lafr_base": "lafr_base",
    "lafr_data": "data",
    "lafr_arch": "lafr_arch",
    "lafr_losses": "lafr_losses",
    "lafr_metrics": "lafr_metrics",
    "lafr_models": "lafr_models",
    "lafr": "lafr",
    "lafr_studies": "lafr_studies",
}
"""Packages from the ground up, and their folders."""

BELOW = {
    "lafr_base": set(),
    "lafr_data": {"lafr_base"},
    "lafr_arch": {"lafr_base"},
    "lafr_losses": {"lafr_base", "lafr_arch"},
    "lafr_metrics": {"lafr_base", "lafr_arch", "lafr_losses"},
    "lafr_models": {"lafr_base", "lafr_arch", "lafr_losses", "lafr_metrics", "lafr_data"},
    "lafr": {"lafr_base", "lafr_arch", "lafr_losses", "lafr_metrics", "lafr_data", "lafr_models"},
    "lafr_studies": {"lafr_base", "lafr_arch", "lafr_losses", "lafr_metrics", "lafr_data", "lafr_models", "lafr"},
}
"""What each package may import beside itself: a network knows nothing of training, a loss nothing of models, a dataset
nothing of networks, and what restores nothing of the studies."""

COMMANDS = ("lafr.cli", "lafr.__main__", "lafr.commands", "lafr_studies.commands")
"""The roof: nothing but commands may import these."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the packages, by its name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def imports(name: str, path: Path) -> Iterator[tuple[str, int, str]]:
    """Names that a module imports, each with its line and when: ``loading``, ``late`` or only for ``types``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    when: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when |= {id(inner): "late" for inner in ast.walk(node)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            when |= {id(inner): "types" for inner in ast.walk(node)}
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, when.get(id(node), "loading")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:  # the name may be a module
                yield f"{source}.{alias.name}", node.lineno, when.get(id(node), "loading")


def is_command(name: str) -> bool:
    return any(name == command or name.startswith(f"{command}.") for command in COMMANDS)


def faults(root: Path) -> list[str]:
    """Imports that run up, one line each."""
    found = []
    for name, path in modules(root).items():
        package = name.split(".")[0]
        for target, line, _ in imports(name, path):
            top = target.split(".")[0]
            if top in FOLDERS and top != package and top not in BELOW[package]:
                found.append(f"{path.relative_to(root)}:{line}: {package} imports {target}, which is above it")
            elif is_command(target) and not is_command(name):
                found.append(f"{path.relative_to(root)}:{line}: {target} is a command, and {name} none")
    return found


def test_no_import_runs_up() -> None:
    assert len(modules()) > 100
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        (
            "data/new_dataset.py",
            "import lafr_arch.lafr_arch",
            "lafr_data imports lafr_arch.lafr_arch, which",
        ),
        (
            "lafr_arch/new_arch.py",
            "def f():\n    from lafr_models import training",
            "lafr_arch imports lafr_models.training",
        ),
        ("lafr_base/new.py", "from lafr import __version__", "lafr_base imports lafr.__version__"),
        ("lafr/new.py", "from lafr.commands import restore", "lafr.commands.restore is a command, and lafr.new none"),
        ("lafr/scale/new.py", "from .. import cli", "lafr.cli is a command, and lafr.scale.new none"),
    ],
)
def test_an_import_that_runs_up_is_found(tmp_path: Path, place: str, code: str, said: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(code)
    (fault,) = faults(tmp_path)
    assert said in fault


def test_no_circle_stands() -> None:
    """What a module imports, at once or late, must not lead back to it."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = {
            target if target in known else target.rpartition(".")[0]
            for target, _, when in imports(name, path)
            if when != "types"
        }
        graph[name] = (targets & known.keys()) - {name}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_training_imports_basicsr() -> None:
    """It does not install everywhere; and what only some need is not imported before they need it."""
    found = {
        (target.split(".")[0], name, when)
        for name, path in modules().items()
        for target, _, when in imports(name, path)
        if target.split(".")[0] in ("basicsr", "facexlib", "pyiqa", "tensorboard")
    }
    assert not [entry for entry in found if entry[2] == "loading" and not entry[1].startswith("lafr_models.")]
    users = {name.split(".")[0] for package, name, _ in found if package == "basicsr"}
    assert users == {"lafr_models", "lafr_studies"}, "lafr_studies trains: ablations"
