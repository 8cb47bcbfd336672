"""The table of faults fits the sources, and its runner tells outcomes apart."""

import pytest

from tests import mutants
from tests.mutants import Mutant

TABLE = mutants.read_table()


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.name)
def test_fault_can_be_planted(mutant):
    text = (mutants.ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        source = (mutants.ROOT / path).read_text()
        assert not name or f"def {name.partition('[')[0]}(" in source


SOURCE = "def double(x):\n    return 2 * x\n"
TESTS = (
    "from library import double\n\n\ndef test_double():\n    assert double(3) == 6\n"
)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "library.py").write_text(SOURCE)
    (tmp_path / "test_library.py").write_text(TESTS)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("2 * x", "3 * x", "caught"),
        ("2 * x", "x * 2", "survived"),
        ("double(x)", "twice(x)", "broken"),
        ("return", "return (", "broken"),
        ("absent", "present", "broken"),
        ("x", "y", "broken"),
    ],
)
def test_outcome_of_a_fault(tree, old, new, outcome):
    mutant = Mutant("fault", "library.py", old, new, ("test_library.py",))
    assert mutants.try_tests("fault", mutant.tests, mutant, tree).outcome == outcome
    assert (tree / "library.py").read_text() == SOURCE


def test_outcome_without_a_fault(tree):
    assert mutants.try_tests("", ["test_library.py"], None, tree).outcome == "passed"
    (tree / "library.py").write_text(SOURCE.replace("2", "3"))
    assert mutants.try_tests("", ["test_library.py"], None, tree).outcome == "broken"


def test_absent_test_is_no_catch(tree):
    mutant = Mutant("fault", "library.py", "2 * x", "3 * x", ("test_absent.py",))
    assert mutants.try_tests("fault", mutant.tests, mutant, tree).outcome == "broken"
