"""Rows and tables of checks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.checks import Report, Row
from jaxlstm.checks.report import compare, differences, judge, precision
from jaxlstm.shapes import OptionError

TREE = {"large": np.asarray([100.0, -200.0]), "small": np.asarray([1.0, 0.5])}


def test_error_is_relative_to_each_leaf():
    off = {"large": TREE["large"] + [0, 0.2], "small": TREE["small"] + [0.02, 0]}
    error, where = compare(off, TREE)
    assert where == "['small']"
    assert error == pytest.approx(0.02)


def test_error_of_a_tiny_leaf_is_relative_to_the_tree():
    tree = TREE | {"small": np.asarray([1e-9, 0.0])}
    error, where = compare(tree | {"small": np.asarray([0.0, 0.0])}, tree)
    assert where == "['small']"
    assert error == pytest.approx(1e-9 / (1e-3 * 200))


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        (np.zeros(2), np.zeros(2), 0.0),
        (np.ones(2), np.zeros(2), math.inf),
        (np.full(2, np.nan), np.ones(2), math.nan),
        (np.ones(2), np.full(2, np.nan), math.nan),
    ],
)
def test_zeros_are_met_exactly_and_nan_is_an_error(actual, expected, error):
    row = judge("row", actual, expected, 1e-3)
    np.testing.assert_equal(row.error, error)
    assert row.passed == (error == 0)


def test_differences_of_shape_and_dtype_are_named():
    actual = {"a": np.ones(2), "b": np.ones(3, np.float32)}
    expected = {"a": np.ones(3), "b": np.ones(3)}
    assert differences(actual, expected) == [
        "['a']: float64[2] is not float64[3]",
        "['b']: float32[3] is not float64[3]",
    ]
    assert judge("row", actual, expected, 1.0).passed is False
    assert "is not" in differences(actual, [1])[0]


def test_table_says_what_holds():
    rows = (
        Row("first", 2e-13, 1e-11, True, "well"),
        Row("second", 1e-3, 1e-11, False),
        Row("third", note="not judged"),
    )
    report = Report("title", rows)
    assert not report.passed
    assert report["second"] is rows[1]
    assert str(report).splitlines() == [
        "title",
        "",
        "identity    error  digits    bound",
        "first     2.0e-13    12.7  1.0e-11  holds: well",
        "second    1.0e-03     3.0  1.0e-11  FAILS",
        "third                               reported: not judged",
        "",
        "1 of 2 identities hold",
    ]
    assert Report("title", rows[::2]).passed


def test_float64_is_on_for_a_check_alone():
    before = jnp.result_type(float)
    with precision("float64"):
        assert jax.jit(lambda: jnp.ones(()))().dtype == "float64"
    with precision("float32"):
        assert jnp.ones(()).dtype == "float32"
    assert jnp.result_type(float) == before
    with (
        pytest.raises(OptionError, match="dtype: 'float16' is unknown"),
        precision("float16"),
    ):
        pass
