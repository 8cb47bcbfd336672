"""The code of docs/equinox.md runs, and leaves what it says."""

import sys
import types

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tests.test_docs import ROOT, find_blocks

pytestmark = pytest.mark.peers


@pytest.fixture
def page(monkeypatch):
    """Returns what the page's names stand for at its end."""
    module = types.ModuleType("equinox_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = ROOT / "docs/equinox.md"
    blocks = [block for block in find_blocks(path) if block.language == "py"]
    assert len(blocks) == 5
    for block in blocks:
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def find_carries(jaxpr):
    """Gives the shapes of what the scans of a program carry."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            first = equation.params["num_consts"]
            last = first + equation.params["num_carry"]
            yield from (each.aval.shape for each in equation.invars[first:last])
        for inner in jaxprs_in_params(equation.params):
            yield from find_carries(inner)


def test_the_page(page):
    there = page.interop.to_equinox(page.params)
    assert set(there) == {"weight_ih", "weight_hh", "bias"}
    for name, array in there.items():
        np.testing.assert_array_equal(getattr(page.cell, name), array)
    # The model is a tree like any other of Equinox, and lengths are heeded.
    assert len(jax.tree.leaves(eqx.filter(page.model, eqx.is_array))) == 5
    padded = page.x[0].at[4:].set(np.nan)
    short, whole = page.model(padded, 4), page.model(page.x[0], 10)
    np.testing.assert_allclose(short, page.model(page.x[0, :4], 4), rtol=1e-5)
    assert not np.allclose(short, whole)
    # One product over time: no scan carries a sum of the shape of the weights.
    arrays, rest = eqx.partition(page.model, eqx.is_array)

    def loss(arrays):
        model = eqx.combine(arrays, rest)
        return page.loss_fn(model, page.x, page.lengths, page.labels)

    shapes = set(find_carries(jax.make_jaxpr(jax.grad(loss))(arrays).jaxpr))
    assert (64, 16) in shapes and (16, 64) not in shapes
