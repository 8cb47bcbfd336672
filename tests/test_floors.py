"""Imports run to a lower floor, or within one folder."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "jaxlstm.types": 0,
    "jaxlstm.shapes": 0,
    "jaxlstm.varying": 0,
    "jaxlstm.noise": 0,
    "jaxlstm.cells": 1,
    "jaxlstm.select": 0,
    "jaxlstm.dropout": 2,
    "jaxlstm.edges": 2,
    "jaxlstm.rule": 2,
    "jaxlstm.backends": 2.5,  # Above the rule, whose controls they take.
    "jaxlstm.sequence": 3,
    "jaxlstm.interface": 4,
    "jaxlstm.layers": 4,
    "jaxlstm.stack": 4,
    "jaxlstm.model": 4,
    "jaxlstm.estimators": 5,
    "jaxlstm.textbook": 5,
    "jaxlstm.interop": 5,
    "jaxlstm.flax": 5,
    "jaxlstm.diagnostics": 5.2,  # Above the estimators' segments and losses.
    "jaxlstm.checks": 5.2,  # Above the estimators, which they check.
    "jaxlstm": 5.5,  # The public names; nothing below may lean on them.
    "jaxlstm.lab": 6,
    "jaxlstm.__main__": 6.5,
    "experiments": 7,
}

# Packages that a room may import beside jax, which does not bring them.
EXTRAS = {
    "jaxlstm.flax": {"flax"},
    "jaxlstm.interop": {"safetensors", "h5py", "keras", "onnx"},
}


def room(module: str) -> str | None:
    """Returns the row of `FLOORS` that a module stands in."""
    parts = module.split(".")
    name = parts[0] if parts[0] == "experiments" else ".".join(parts[:2])
    return name if name in FLOORS else None


def find_modules(root: Path) -> dict[str, Path]:
    """Returns the modules under a root by their names."""
    files = [
        path
        for top in ("jaxlstm", "experiments")
        for path in root.glob(f"{top}/**/*.py")
    ]
    parts = {path: path.relative_to(root).with_suffix("").parts for path in files}
    return {
        ".".join(names[:-1] if names[-1] == "__init__" else names): path
        for path, names in parts.items()
    }


def find_imports(tree: ast.Module, package: str, known: set[str]) -> Iterator[str]:
    """Yields what a file imports, in functions too, as full names of modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: package.count(".") + 2 - node.level]
            prefix = ".".join(parents) if node.level else ""
            base = ".".join(filter(None, (prefix, node.module)))
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in known else base


class DropTypeChecking(ast.NodeTransformer):
    """Drops `if TYPE_CHECKING:`, whose imports make no circle when the code runs."""

    def visit_If(self, node: ast.If) -> ast.If | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def find_violations(root: Path) -> list[str]:
    """Returns one line for each import under a root that breaks the rules."""
    modules = find_modules(root)
    found = []
    beside: dict[str, set[str]] = {}
    for module, path in modules.items():
        floor = FLOORS.get(room(module) or "")
        if floor is None:
            found.append(f"{module} has no floor")
            continue
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        tree, known = ast.parse(path.read_text()), {*modules, *FLOORS}
        targets = list(find_imports(tree, package, known))
        running = set(find_imports(DropTypeChecking().visit(tree), package, known))
        for target in targets:
            top = target.split(".")[0]
            if top not in {"jaxlstm", "experiments"}:
                if floor < FLOORS["jaxlstm.lab"] and top not in allowed_packages(
                    module
                ):
                    found.append(f"{module} imports {target}, which jax does not bring")
                continue
            target_floor = FLOORS.get(room(target) or "")
            one_folder = room(target) == room(module) or (
                target in modules and modules[target].parent == path.parent
            )
            if target_floor is None:
                found.append(f"{module} imports {target}, which has no floor")
            elif target_floor > floor:
                found.append(f"{module} imports {target} from a higher floor")
            elif target_floor == floor and not one_folder:
                found.append(f"{module} imports {target} from beside it")
            elif target_floor == floor and target in running:
                beside.setdefault(module, set()).add(target)
    try:
        graphlib.TopologicalSorter(beside).prepare()
    except graphlib.CycleError as error:
        found.append(f"a circle of imports: {' <- '.join(error.args[1])}")
    return found


def allowed_packages(module: str) -> set[str]:
    """Returns what a module of the library may import beside the library."""
    allowed = {"jax", "numpy", *sys.stdlib_module_names}
    return allowed | EXTRAS.get(room(module) or "", set())


def test_imports_run_to_lower_floors():
    assert "jaxlstm.rule" in find_modules(ROOT)
    assert find_violations(ROOT) == []


def test_command_loads_the_laboratory_inside_functions_only():
    tree = ast.parse((ROOT / "jaxlstm" / "__main__.py").read_text())
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    modules = set(find_imports(tree, "jaxlstm", {*find_modules(ROOT), *FLOORS}))
    packages = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert packages <= {"jaxlstm"}
    assert "jaxlstm.lab" not in {room(name) for name in modules}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


GOOD = {
    "jaxlstm/__init__.py": "from jaxlstm.estimators import bptt as bptt\n",
    "jaxlstm/types.py": "import jax\n",
    "jaxlstm/shapes.py": "from jaxlstm.types import Array\n",
    "jaxlstm/cells/__init__.py": "from jaxlstm.cells.lstm import LSTM as LSTM\n",
    "jaxlstm/cells/base.py": "from ..types import Array\n"
    "if TYPE_CHECKING:\n    from jaxlstm.cells.lstm import LSTM\n",
    "jaxlstm/cells/lstm.py": "from .base import Cell\n",
    "jaxlstm/rule.py": "import functools\nfrom jaxlstm import cells\n",
    "jaxlstm/stack.py": "from jaxlstm.rule import edge\n",
    "jaxlstm/model.py": "from jaxlstm.stack import stack\n",
    "jaxlstm/textbook.py": "import numpy as np\n",
    "jaxlstm/flax/linen.py": "import flax\n",
    "jaxlstm/interop/safetensors.py": "def load():\n    import safetensors\n",
    "jaxlstm/estimators/__init__.py": "from jaxlstm.estimators.bptt import bptt\n",
    "jaxlstm/estimators/bptt.py": "from jaxlstm.model import Model\n",
    "jaxlstm/lab/run.py": "import optax\nfrom jaxlstm import bptt\n",
    "jaxlstm/__main__.py": "def main():\n    from jaxlstm.lab import run\n",
    "experiments/text.py": "from jaxlstm.lab.run import run\n",
}

PLANTS = {
    "upward": ("jaxlstm/types.py", "import jaxlstm.cells", "jaxlstm.cells from a hi"),
    "in a function": (
        "jaxlstm/rule.py",
        "def f():\n    from jaxlstm.model import Model",
        "jaxlstm.model from a higher floor",
    ),
    "relative": ("jaxlstm/cells/lstm.py", "from ..rule import edge", "jaxlstm.rule"),
    "relative module": ("jaxlstm/cells/lstm.py", "from .. import rule", "jaxlstm.rule"),
    "for types": (
        "jaxlstm/model.py",
        "if TYPE_CHECKING:\n    from jaxlstm.lab.run import Run",
        "jaxlstm.lab.run from a higher floor",
    ),
    "of a package": ("jaxlstm/model.py", "from jaxlstm import lab", "jaxlstm.lab from"),
    "of a module": (
        "jaxlstm/model.py",
        "from jaxlstm import estimators",
        "jaxlstm.estimators from a higher floor",
    ),
    "public names from below": (
        "jaxlstm/rule.py",
        "import jaxlstm",
        "jaxlstm from a higher floor",
    ),
    "beside": (
        "jaxlstm/estimators/bptt.py",
        "from jaxlstm.textbook import backward",
        "jaxlstm.textbook from beside it",
    ),
    "laboratory by the top": (
        "jaxlstm/__init__.py",
        "from jaxlstm.lab.run import run",
        "jaxlstm.lab.run from a higher floor",
    ),
    "experiment by the laboratory": (
        "jaxlstm/lab/run.py",
        "import experiments.text",
        "experiments.text from a higher floor",
    ),
    "no floor": ("jaxlstm/novel.py", "import jax", "jaxlstm.novel has no floor"),
    "circle": ("jaxlstm/cells/base.py", "from .lstm import x", "a circle of imports"),
    "another package": ("jaxlstm/rule.py", "import optax", "jax does not bring"),
}


def test_good_tree_passes(tmp_path):
    plant(tmp_path, GOOD)
    assert find_violations(tmp_path) == []


@pytest.mark.parametrize("name", PLANTS)
def test_planted_import_is_found(tmp_path, name):
    path, source, message = PLANTS[name]
    plant(tmp_path, {**GOOD, path: source})
    violations = find_violations(tmp_path)
    assert len(violations) == 1
    assert message in violations[0]
