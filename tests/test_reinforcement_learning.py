"""The page on reinforcement learning: its timeline, and its program, which learns."""

import functools
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState, init_lstm, lstm
from tests.helpers import assert_close, draw_like, jit
from tests.pages import FENCE, read_tables

PAGE = Path(__file__).parents[1] / "docs" / "reinforcement_learning.md"
TEXT = PAGE.read_text()
BLOCKS = [match for match in FENCE.finditer(TEXT) if match[1] == "python"]
PROGRAM = "\n\n".join(match[3] for match in BLOCKS if "recall_ppo.py" in match[2])
OTHERS = "\n\n".join(match[3] for match in BLOCKS if not match[2])


def load(source, monkeypatch, name="reinforcement_learning", **names):
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    vars(module).update(names)
    exec(compile(source, PAGE, "exec"), vars(module))
    return module


def test_timeline_is_consistent():
    (timeline,) = (
        {row[0]: row[1:] for row in table}
        for table in read_tables(TEXT)
        if table[0][0] == "the policy reads"
    )
    reads, returns = timeline["the policy reads"], timeline["and the observation"]
    assert returns[:-1] == reads[1:]
    ended = [
        str(int(now[0] != then[0])) for now, then in zip(reads, returns, strict=True)
    ]
    assert timeline["the step returns `done`"] == ended
    assert timeline["`last_done`"] == timeline["`resets`"] == ["0", *ended[:-1]]
    starts = [str(int(observation[1:] == "0")) for observation in reads]
    assert timeline["`episode_starts`"] == starts


@pytest.mark.slow
def test_world_asks_for_the_cue_and_begins_again(monkeypatch):
    """Two players of 200 steps: one who knows the cue, and one who is always wrong."""
    module = load(PROGRAM, monkeypatch)
    keys = jax.random.split(jax.random.key(0), 200)

    def play(shift):
        def step(world, key):
            action = (world.cue + shift) % module.NUM_CUES
            later, *seen = module.advance(key, world, action)
            return later, (world, later, *seen)

        world, first = module.begin(jax.random.key(1))
        return first, *jax.lax.scan(step, world, keys)[1]

    both = jax.device_get(jit(jax.vmap(play))(np.array([0, 1])))
    first, before, after, observation, reward, done = jax.tree.map(
        lambda leaf: leaf[0], both
    )
    ends = np.flatnonzero(done)
    assert len(ends) > 5
    np.testing.assert_array_equal(reward, done)
    np.testing.assert_array_equal(both[4][1], 0)
    np.testing.assert_array_equal(done, before.wait == 0)
    np.testing.assert_array_equal(observation[:, -1], ~done & (after.wait == 0))
    np.testing.assert_array_equal(observation[:, :-1].any(axis=1), done)
    shown = np.concatenate([first[None], observation[ends]]).argmax(axis=1)
    np.testing.assert_array_equal(shown[:-1], before.cue[ends])
    waits = after.wait[ends]
    assert waits.min() >= 1
    assert waits.max() <= module.LONGEST_WAIT
    assert len(np.unique(waits)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("resets", ["runner.last_done", "done"])
def test_policy_learns_unless_its_replay_is_shifted(resets, monkeypatch, capsys):
    source = PROGRAM
    changes = {
        "resets=runner.last_done": f"resets={resets}",
        "jax.jit(train)": "compile_quickly(train)",
    }
    for old, new in changes.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    if resets == "done":
        source = source.replace("0.2, 4, 4, 100", "0.2, 4, 4, 40")
    load(source, monkeypatch, "__main__", compile_quickly=jit)
    printed = capsys.readouterr().out
    lines = dict(line.split(": ") for line in printed.splitlines())
    *_, first, last, error = map(float, lines.values())
    assert all(re.search(f"^    {re.escape(name)}: ", TEXT, re.M) for name in lines)
    if resets == "done":
        # Of some 1,800 episodes chance wins one in four, with a deviation of 0.01.
        assert max(first, last) < 0.3
        assert error > 0.2
    else:
        assert first < 0.7
        assert last > 0.95
        assert error < 1e-5


@pytest.mark.slow
def test_burn_in_makes_the_carry_and_passes_no_gradient(x64, monkeypatch):
    module = load(OTHERS, monkeypatch)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lstm(jax.random.key(0), 3, 4))
    params = draw_like(shapes, 1)
    kept = LSTMState(*rng.normal(size=(2, 2, 4)))
    inputs, resets = rng.normal(size=(8, 2, 3)), np.zeros((8, 2), bool)
    resets[1, 0] = resets[6, 1] = True

    def loss(params, kept, inputs):
        outputs = module.replay_after_burn_in(params, kept, (inputs, resets), 3)
        return jnp.sum(outputs**2), outputs

    def from_the_carry(params, kept, inputs):
        carry, _ = lstm(params, inputs[:3], kept, resets=resets[:3])

        def rest(params):
            _, outputs = lstm(params, inputs[3:], carry, resets=resets[3:])
            return jnp.sum(outputs**2)

        return jax.grad(rest)(params), lstm(params, inputs, kept, resets=resets)[1]

    (grads, outputs), (expected, whole) = jit(
        lambda *arguments: (
            jax.grad(loss, (0, 1, 2), has_aux=True)(*arguments),
            from_the_carry(*arguments),
        )
    )(params, kept, inputs)
    assert_close(outputs, whole[3:])
    assert_close(grads[0], expected)
    for leaf in jax.tree.leaves((grads[1], grads[2][:3])):
        np.testing.assert_array_equal(leaf, 0)
    assert (np.asarray(grads[2][3:]) != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "stack"])
def test_other_nets_reset_as_well(x64, monkeypatch, name):
    """Two episodes in one sequence are what each is by itself."""
    module = load(OTHERS, monkeypatch)
    init, begin, scan = {
        "gru": (module.gru.init, module.gru.initial_state, module.scan_gru),
        "stack": (
            functools.partial(module.init_lstm_stack, num_layers=2),
            module.zero_stack_state,
            module.scan_stack,
        ),
    }[name]
    rng = np.random.default_rng(0)
    params = draw_like(jax.eval_shape(lambda: init(jax.random.key(0), 3, 4)), 1)
    start = begin(params, (2,))
    carry = draw_like(start, 2)
    inputs, resets = rng.normal(size=(8, 2, 3)), np.zeros((8, 2), bool)
    resets[5] = True

    def run():
        _, first = scan(params, carry, (inputs[:5], None))
        last, second = scan(params, start, (inputs[5:], None))
        whole = scan(params, carry, (inputs, resets))
        return whole, (last, jnp.concatenate([first, second]))

    assert_close(*jit(run)())
