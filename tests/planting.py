"""Faults planted in a copy of a module, in this process, for tests to run on."""

import importlib
import inspect
import types
from collections.abc import Iterable
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]

Changes = Iterable[tuple[str, str]]


def plant(file: str, changes: Changes) -> tuple[types.ModuleType, types.ModuleType]:
    """Returns a module of the package, and a copy with lines changed.

    The copy keeps the classes, so that its results compare with those of the module.

    Args:
      file: of the module, relative to the root.
      changes: what stands there, once, and what takes its place.

    Raises:
      ValueError: something does not stand there once.
    """
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    source = (ROOT / file).read_text()
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{file}: {old!r} stands there {source.count(old)} times")
        source = source.replace(old, new)
    planted = types.ModuleType(module.__name__)
    exec(compile(source, file, "exec"), planted.__dict__)
    for name, value in vars(module).items():
        if isinstance(value, type):
            setattr(planted, name, value)
    return module, planted


def run_check(
    test: str, file: str, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs a test of the suite on a module with lines changed.

    A parametrized test is run with the last of each list of values.

    Args:
      test: the file and the name, as in `test_cells.py::test_lstm_by_its_equations`.
      file: of the module, relative to the root.
      changes: as in `plant`.
      monkeypatch: takes the changed module out of the test again.
    """
    path, name = test.split("::")
    tests = importlib.import_module(f"tests.{path.removesuffix('.py')}")
    module, planted = plant(file, changes)
    for key, value in list(vars(tests).items()):
        if value is module:
            monkeypatch.setattr(tests, key, planted)
        elif inspect.isfunction(value) and value.__module__ == module.__name__:
            monkeypatch.setattr(tests, key, getattr(planted, value.__name__))
    check = getattr(tests, name)
    arguments = {
        mark.args[0]: mark.args[1][-1]
        for mark in getattr(check, "pytestmark", ())
        if mark.name == "parametrize"
    }
    if "x64" in inspect.signature(check).parameters:
        arguments["x64"] = None
    jax.config.update("jax_enable_x64", "x64" in arguments)
    check(**arguments)
