"""Sampling: draws against their probabilities, loops in Python, and the command."""

import contextlib
import functools
import itertools
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.text import Text
from jaxlstm.cells import make_lstm
from jaxlstm.lab import UserError, commands, load_run, sampling
from jaxlstm.lab.config import load_config
from jaxlstm.lab.draws import Sampling, draw_noise
from jaxlstm.lab.experiment import build
from jaxlstm.lab.sampling import make_sampler, sample_text, start_symbol, write_samples
from jaxlstm.lab.start import create_run
from jaxlstm.lab.vocabulary import Vocabulary
from jaxlstm.model import Model, ModelParams, ReadoutParams, make_model
from tests.helpers import draw_like, jit
from tests.lab.tiny import Tiny

NUM_SYMBOLS = 7
LENGTH = 21


def make_chain():
    """Returns a model whose logits are a table's row of the symbol it read last.

    It reads on from row 0.
    """

    def unroll(recurrent, state, inputs, *, mask=None):
        # As models do, it must not look at what is masked.
        symbols = jnp.where(mask, inputs, 0)
        numbers = jnp.arange(len(inputs))
        last = jnp.max(jnp.where(mask, numbers, -1))
        return jnp.where(last < 0, state, symbols[last]).astype(jnp.int32), None

    return Model(
        init=lambda key: None,
        initial_state=lambda params, shape: jnp.zeros(shape, jnp.int32),
        step=lambda recurrent, state, x: x,
        unroll=unroll,
        readout=lambda params, state: params.readout[state],
    )


def chain_params(table):
    return ModelParams(recurrent=None, readout=np.asarray(table, np.float32))


def follow(cycle, num_symbols):
    """Returns the table of a chain that goes round a cycle of symbols."""
    table = np.zeros((num_symbols, num_symbols))
    for here, there in itertools.pairwise([*cycle, cycle[0]]):
        table[here, there] = 50.0
    return table


def keep(logits, temperature=1.0, top_k=None, top_p=None):
    """Returns the probabilities of symbols by the definitions, in plain Python."""
    weights = {n: float(x) / temperature for n, x in enumerate(logits)}
    order = sorted(weights, key=lambda n: (-weights[n], n))[:top_k]
    total = sum(np.exp(weights[n]) for n in order)
    kept, mass = [], 0.0
    for n in order:
        if top_p is not None and mass >= top_p:
            break
        kept.append(n)
        mass += np.exp(weights[n]) / total
    total = sum(np.exp(weights[n]) for n in kept)
    return {n: np.exp(weights[n]) / total for n in kept}


OPTIONS = [
    {},
    {"temperature": 0.6},
    {"temperature": 3.0, "top_k": 4},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.31},
    {"top_p": 0.83},
    {"top_p": 1e-9},
    {"top_p": 1.0},
    {"temperature": 1.7, "top_p": 0.72},
    {"temperature": 0.8, "top_k": 5, "top_p": 0.77},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_candidates_are_those_of_the_definitions(options):
    random = np.random.default_rng(0)
    # Whole numbers, so that there are ties, also where the set ends. No -0.0, which is
    # sorted after 0.0.
    logits = np.round(random.normal(size=(40, NUM_SYMBOLS))) + 0.0
    values, symbols = jit(Sampling(**options).candidates)(jnp.float32(logits))
    if symbols is None:
        symbols = np.broadcast_to(np.arange(NUM_SYMBOLS), logits.shape)
    columns = map(np.asarray, (logits, values, symbols))
    for row, value, symbol in zip(*columns, strict=True):
        weights = np.exp(value.astype(np.float64))
        found = dict(zip(symbol.tolist(), weights / weights.sum(), strict=True))
        expected = keep(row, **options)
        assert {n for n, p in found.items() if p} == set(expected)
        assert all(found[n] == pytest.approx(expected[n], 1e-5) for n in expected)


def test_top_p_of_one_keeps_what_rounding_would_lose():
    # In float32 the first probability is 1.
    logits = np.float32([20.0, 0.0])
    values, _ = Sampling(top_p=1.0).candidates(jnp.asarray(logits))
    np.testing.assert_array_equal(values, logits)


def test_noise_belongs_to_symbols():
    everything = sample_net(Sampling(top_k=NUM_SYMBOLS))
    np.testing.assert_array_equal(everything, sample_net(Sampling()))


def chi_square(counts, probabilities):
    """Returns how far counts are from what is expected, by Pearson's statistic."""
    expected = counts.sum() * np.asarray(probabilities)
    return float(np.sum((counts - expected) ** 2 / expected))


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"temperature": 1.5, "top_k": 5, "top_p": 0.9}]
)
def test_draws_have_their_probabilities(options):
    logits = np.array([0.3, -0.4, 1.2, 0.3, -1.0, 0.8])

    @jit
    def draw():
        noise = draw_noise(jax.random.key(0), 0, 4096, (4, len(logits)))
        wide = jnp.broadcast_to(jnp.float32(logits), noise.shape)
        return Sampling(**options).draw(wide, noise)

    symbols = np.asarray(draw())
    expected = keep(logits, **options)
    kept = sorted(expected)
    assert set(np.unique(symbols)) == set(kept)
    probabilities = np.array([expected[n] for n in kept])
    ranks = np.searchsorted(kept, symbols)
    # Chance takes 5 degrees of freedom past 32 about six times in a million keys; 4
    # less often still.
    assert chi_square(np.bincount(ranks.ravel()), probabilities) < 32
    # Nor do neighbours in time, or samples side by side, know of each other. Chance
    # takes 35 degrees of freedom past 88 about twice in a million keys.
    pairs = np.outer(probabilities, probabilities).ravel()
    for first, second in [(ranks[:-1], ranks[1:]), (ranks[:, :-1], ranks[:, 1:])]:
        joint = np.bincount((first * len(kept) + second).ravel(), minlength=len(pairs))
        assert chi_square(joint, pairs) < 88


@functools.cache
def make_net(dtype="float32"):
    """Returns a net of two layers that writes what is hard to foresee."""
    model = make_model(
        make_lstm(),
        input_size=NUM_SYMBOLS,
        output_size=NUM_SYMBOLS,
        hidden_size=5,
        num_layers=2,
        inputs="one_hot",
        learned_initial_state=True,
        dtype=jnp.dtype(dtype),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = draw_like(shapes, 0)
    # So that what was read weighs more than the bias.
    params = params._replace(readout=ReadoutParams(*draw_like(params.readout, 1, 4.0)))
    params.readout.b[:] = 0.0
    return model, jax.tree.map(lambda x: x.astype(dtype), params)


@functools.cache
def cached_sampler(options, chunk_size):
    return make_sampler(make_net()[0], options, chunk_size=chunk_size)


def sample_net(options, *, chunk_size=8, seed=0, num_samples=1):
    """Returns symbols [LENGTH, num_samples]."""
    chunks = cached_sampler(options, chunk_size)(
        make_net()[1],
        np.array([2, 5]),
        jax.random.key(seed),
        length=LENGTH,
        num_samples=num_samples,
    )
    return np.concatenate(list(chunks))


@pytest.mark.parametrize("greedy", [True, False])
def test_symbols_are_those_of_a_loop_over_step(x64, greedy):
    options = Sampling(greedy=True) if greedy else Sampling(temperature=0.9)
    model, params = make_net("float64")
    key, step, readout = jax.random.key(3), jit(model.step), jit(model.readout)
    sample = make_sampler(model, options, chunk_size=8)
    seen = set()
    # The prompt is read in blocks of 64.
    for prompt_length in (1, 64, 70):
        prompt = np.random.default_rng(1).integers(0, NUM_SYMBOLS, prompt_length)
        chunks = sample(params, prompt, key, length=LENGTH, num_samples=2)
        found = np.concatenate(list(chunks))
        for number in range(2):
            own = jax.random.fold_in(key, number)
            state = model.initial_state(params, ())
            for symbol in prompt:
                state = step(params.recurrent, state, symbol)
            for t in range(LENGTH):
                scores = np.asarray(readout(params, state))
                if not greedy:
                    noise = jax.random.gumbel(
                        jax.random.fold_in(own, t), (NUM_SYMBOLS,), jnp.float32
                    )
                    scores = scores / 0.9 + np.asarray(noise)
                assert found[t, number] == np.argmax(scores)
                state = step(params.recurrent, state, found[t, number])
        assert (found[:, 0] == found[:, 1]).all() == greedy
        seen.add(found.tobytes())
    assert len(seen) > 1


def test_chunks_do_not_matter():
    options = Sampling(top_k=5, top_p=0.95)
    by_eight = sample_net(options, num_samples=2)
    assert by_eight.shape == (LENGTH, 2)
    assert by_eight.dtype == np.int32
    np.testing.assert_array_equal(
        sample_net(options, chunk_size=5)[:, 0], by_eight[:, 0]
    )
    np.testing.assert_array_equal(
        sample_net(options, chunk_size=LENGTH, num_samples=2), by_eight
    )


def test_samples_do_not_depend_on_how_many_there_are():
    options = Sampling()
    three = sample_net(options, num_samples=3)
    np.testing.assert_array_equal(sample_net(options), three[:, :1])
    assert len({column.tobytes() for column in three.T}) == 3


def test_seed_matters():
    options = Sampling()
    assert (sample_net(options) != sample_net(options, seed=1)).any()


def test_chunks_are_cut_at_the_length():
    table = np.zeros((NUM_SYMBOLS, NUM_SYMBOLS))
    sample = make_sampler(make_chain(), Sampling(), chunk_size=4)
    for length, sizes in [(3, [3]), (8, [4, 4]), (9, [4, 4, 1])]:
        chunks = sample(
            chain_params(table), np.array([1]), jax.random.key(0), length=length
        )
        assert [chunk.shape for chunk in chunks] == [(size, 1) for size in sizes]


def test_next_chunk_is_under_way_before_one_is_given_out(monkeypatch):
    begun = []

    def note(key, first, count, shape):
        jax.debug.callback(lambda first: begun.append(int(first)), first)
        return jnp.zeros((count, *shape))

    monkeypatch.setattr(sampling, "draw_noise", note)
    sample = make_sampler(make_chain(), Sampling(), chunk_size=4)
    chunks = sample(
        chain_params(np.zeros((3, 3))), np.array([1]), jax.random.key(0), length=12
    )
    next(chunks)
    jax.effects_barrier()
    assert begun == [0, 4]


def test_many_symbols_take_fewer_steps_a_call(monkeypatch):
    monkeypatch.setattr(sampling, "NOISE_BYTES", 4 * 2 * NUM_SYMBOLS * 3)
    sample = make_sampler(make_chain(), Sampling())
    params = chain_params(np.zeros((NUM_SYMBOLS, NUM_SYMBOLS)))
    for num_samples, steps in [(2, 3), (7, 1)]:
        chunks = sample(
            params,
            np.array([1]),
            jax.random.key(0),
            length=6,
            num_samples=num_samples,
        )
        assert next(chunks).shape == (steps, num_samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0: has to be above 0, and finite; for"),
        ({"temperature": -1.0}, "--temperature -1: has to be above 0, and finite; for"),
        ({"temperature": 1e-9}, "--temperature 1e-09: has to be 1e-06 or more, and"),
        ({"temperature": float("inf")}, "--temperature inf: has to be 1e-06 or more"),
        (
            {"temperature": float("nan")},
            "--temperature nan: is not a number; write",
        ),
        ({"top_k": 0}, "--top-k 0: has to be 1 or more"),
        ({"top_p": 0.0}, "--top-p 0: has to be above 0 and at most 1"),
        ({"top_p": 1.5}, "--top-p 1.5: has to be above 0 and at most 1"),
        ({"top_p": float("nan")}, "--top-p nan: is not a number; write one"),
        (
            {"greedy": True, "temperature": 1.0},
            "--greedy: takes no --temperature;",
        ),
        ({"greedy": True, "top_k": 2}, "--greedy: takes no --top-k; leave one out"),
        ({"greedy": True, "top_p": 0.5}, "--greedy: takes no --top-p; leave one out"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError) as caught:
        Sampling(**options)
    assert str(caught.value).startswith(message)


def test_sampler_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match=r"^model: has no online form"):
        make_sampler(make_chain()._replace(step=None), Sampling())
    params, key = chain_params(np.zeros((3, 3))), jax.random.key(0)
    with pytest.raises(UserError, match=r"^prompt: is empty"):
        make_sampler(make_chain(), Sampling())(params, np.array([]), key, length=1)
    with pytest.raises(UserError, match=r"^--top-k 4: the model has 3 symbols"):
        make_sampler(make_chain(), Sampling(top_k=4))(
            params, np.array([1]), key, length=1
        )


VOCABULARIES = {
    "characters": (Vocabulary("characters", ("é", "\n", "n")), [2, 0, 1], "né\n"),
    "bytes": (
        Vocabulary("bytes", (0xA9, 10, 0xC3, ord("n"))),
        [3, 2, 0, 1],
        "né\n",
    ),
    "words": (
        Vocabulary("words", ("<unk>", "one", "<eos>", "two"), unknown=0),
        [1, 3, 2],
        "one two\n",
    ),
}


def stub_run(unit, **changes):
    """Returns a run whose model goes round one line of text."""
    vocabulary, cycle, line = VOCABULARIES[unit]
    run = SimpleNamespace(
        path=Path("run"),
        model=make_chain(),
        params=chain_params(follow(cycle, len(vocabulary))),
        vocabulary=vocabulary,
        labels=None,
        facts={"parts": {"input_size": len(vocabulary), "symbols": True}},
        task=Text(),
    )
    return SimpleNamespace(**vars(run) | changes), line


@pytest.mark.parametrize("unit", VOCABULARIES)
def test_text_comes_in_pieces(unit, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 1)
    run, line = stub_run(unit)
    pieces = list(sample_text(run, Sampling(), length=2 * len(VOCABULARIES[unit][1])))
    assert "".join(pieces) == line * 2 + "\n"
    assert len(pieces) > 4
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_text_begins_with_the_prompt():
    run, _ = stub_run("characters")
    text = "".join(sample_text(run, Sampling(), prompt="é\nn", length=4))
    assert text == "é\nné\nné\n"
    run, _ = stub_run("words")
    text = "".join(sample_text(run, Sampling(), prompt="one", length=3))
    assert text == "one two\none\n"


def test_samples_stand_one_after_the_other():
    run, line = stub_run("characters")
    text = "".join(sample_text(run, Sampling(), length=3, num_samples=2))
    assert text == "".join(f"--- sample {n} of 2 ---\n{line}\n" for n in (1, 2))


def test_samples_that_stand_together_are_each_their_own():
    run, _ = stub_run("characters", params=chain_params(np.zeros((3, 3))))
    draw = functools.partial(sample_text, run, Sampling(), prompt="n", length=30)
    alone = "".join(draw()).removesuffix("\n")
    parts = "".join(draw(num_samples=3)).split("--- sample ")[1:]
    texts = [part.partition("---\n")[2].removesuffix("\n") for part in parts]
    assert texts[0] == alone
    assert len(set(texts)) == 3
    assert {len(text) for text in texts} == {31}
    assert "".join(draw(seed=1)).removesuffix("\n") not in texts


@pytest.mark.parametrize(
    ("vocabulary", "start"),
    [
        (Vocabulary("characters", ("a", "\n")), 1),
        (Vocabulary("characters", ("a", "b")), 0),
        (Vocabulary("bytes", (9, 11, 10)), 2),
        (Vocabulary("words", ("<unk>", "the", "<eos>"), unknown=0), 2),
        (Vocabulary("words", ("<unk>", "the"), unknown=0), 1),
        (Vocabulary("words", ("the", "<unk>"), unknown=1), 0),
    ],
)
def test_text_without_a_prompt_starts_after_a_line_feed(vocabulary, start):
    assert start_symbol(vocabulary) == start


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, '--prompt "": holds no characters; write some, or leave'),
        ({"prompt": "nüé"}, "'ü' (U+00FC) at position 1: not among the 3 characters"),
        ({"length": 0}, "--length 0: has to be 1 or more"),
        ({"length": 2**40}, "--length 1099511627776: has to be at most 1073741824"),
        (
            {"length": 10**9, "num_samples": 2},
            "--length 1000000000: 2 samples of it do not fit into 1 GiB; use at most "
            "134217728, or fewer samples",
        ),
        ({"num_samples": 0}, "--num-samples 0: has to be 1 or more"),
        ({"seed": -1}, "--seed -1: has to be in 0 ... 4294967295"),
        ({"seed": 2**32}, "--seed 4294967296: has to be in 0 ... 4294967295"),
        # A state of 4 bytes, and the noise of three symbols.
        (
            {"num_samples": 10**8},
            "--num-samples 100000000: 67,108,864 fit into 1 GiB of states and noise; "
            "use at most that",
        ),
    ],
)
def test_wrong_arguments_of_text_are_refused(arguments, message):
    run, _ = stub_run("characters")
    with pytest.raises(UserError) as caught:
        next(sample_text(run, Sampling(), **arguments))
    assert str(caught.value).startswith(message)


def test_greedy_samples_would_all_be_the_same():
    run, _ = stub_run("characters")
    with pytest.raises(UserError, match=r"^--num-samples 2: would all be the same"):
        next(sample_text(run, Sampling(greedy=True), num_samples=2))


def test_vocabulary_has_to_be_that_of_the_model():
    remedy = "put back the file that the run was made with"
    for vocabulary, fault in [
        (None, "is missing"),
        (Vocabulary("characters", ("a", "b")), "has 2 symbols, and the model 3"),
    ]:
        run, _ = stub_run("characters", vocabulary=vocabulary)
        with pytest.raises(UserError) as caught:
            next(sample_text(run, Sampling()))
        assert caught.value.lines == (f"run/vocabulary.json: {fault}; {remedy}",)


def test_symbols_that_stand_for_nothing_are_not_sampled():
    run, _ = stub_run("characters", vocabulary=None, task=Tiny())
    with pytest.raises(UserError) as caught:
        next(sample_text(run, Sampling()))
    assert caught.value.lines == (
        "run: has no vocabulary, for its task says nothing of what its symbols stand "
        "for; give the task a `vocabulary`, and train anew",
    )


def test_prompt_has_to_hold_a_word():
    run, _ = stub_run("words")
    with pytest.raises(UserError, match=r'^--prompt " ": holds no words; write some'):
        next(sample_text(run, Sampling(), prompt=" "))


def test_one_sample_is_not_kept(monkeypatch):
    chunks = []

    def make(model, options):
        def sample(*args, length, num_samples):
            for _ in range(length):
                chunk = np.zeros((1, num_samples), np.int32)
                chunks.append(weakref.ref(chunk))
                yield chunk

        return sample

    monkeypatch.setattr(sampling, "make_sampler", make)
    for num_samples, kept in [(1, False), (2, True)]:
        chunks.clear()
        run, _ = stub_run("characters")
        pieces = sample_text(run, Sampling(), length=9, num_samples=num_samples)
        for _ in range(8):
            next(pieces)
        assert (chunks[0]() is not None) == kept


CONFIG = """
seed = 5

[task]
use = "experiments.text:Text"
source = "{source}"

[model]
hidden_size = 4

[train]
num_updates = 2
batch_size = 2
segment_length = 4
"""


@pytest.fixture(scope="module")
def config_of_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    source = folder / "source.txt"
    source.write_text("the quick brown fox jumps over the lazy dog\n" * 10)
    config = folder / "text.toml"
    config.write_text(CONFIG.format(source=source))
    return config


@pytest.fixture(scope="module")
def run(config_of_text):
    """A run of two updates."""
    folder = config_of_text.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path.copy())
        with contextlib.suppress(SystemExit):
            commands.main(["run", str(config_of_text), "--out", str(folder)])
    assert load_run(folder).facts["status"] == "finished"
    return folder


def test_command_prints_prompt_and_text(run, command):
    outcome = command("sample", run, "--prompt", "the ", "--length", 40, "--seed", 2)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out) == 4 + 40 + 1
    loaded = load_run(run)
    again = sample_text(loaded, Sampling(), prompt="the ", length=40, seed=2)
    assert outcome.out == "".join(again)


def test_command_passes_its_options_on(run, command):
    tokens = "sample", run, "--length", 30
    options = Sampling(temperature=1.5, top_k=9, top_p=0.9)
    expected = sample_text(load_run(run), options, length=30, num_samples=2, seed=1)
    outcome = command(
        *tokens,
        *("--temperature", 1.5, "--top-k", 9, "--top-p", 0.9),
        *("--num-samples", 2, "--seed", 1, "--checkpoint", "latest"),
    )
    assert outcome.out == "".join(expected)
    greedy = sample_text(load_run(run), Sampling(greedy=True), length=30)
    assert command(*tokens, "--greedy").out == "".join(greedy)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["--prompt", ""], '--prompt "": holds no characters'),
        (["--prompt", "quid?"], "'?' (U+003F) at position 4"),
        (["--temperature", "0"], "--temperature 0: has to be above 0"),
        (["--top-k", "99"], "--top-k 99: the model has 28 symbols"),
        (["--greedy", "--top-p", "0.5"], "--greedy: takes no --top-p"),
        (["--temperature", "nan"], "--temperature nan: is not a number"),
        (["--num-samples", "100000000"], "fit into 1 GiB of states and noise"),
        (["--checkpoint", "worst"], '"worst" for --checkpoint'),
    ],
)
def test_command_refuses_in_one_line(run, command, tokens, words):
    outcome = command("sample", run, *tokens)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.faults
    assert words in line


def test_run_that_has_nothing_to_sample_is_refused(
    config, config_of_text, command, tmp_path
):
    for file, words in [
        (config, "has no vocabulary"),
        (config_of_text, "holds no checkpoint"),
    ]:
        folder = tmp_path / file.stem
        folder.mkdir()
        create_run(folder, build(load_config(file)))
        outcome = command("sample", folder)
        assert (outcome.code, outcome.out) == (2, "")
        (line,) = outcome.faults
        assert str(folder) in line
        assert words in line


def test_run_has_samples_that_can_be_written_again(run, tmp_path):
    again = tmp_path / "again.txt"
    write_samples(load_run(run), again)
    text = again.read_text()
    assert (run / "samples.txt").read_text() == text
    drawn, _, greedy = text.partition("=== greedy ===\n")
    expected = sample_text(
        load_run(run), Sampling(temperature=0.8), length=300, num_samples=3, seed=5
    )
    assert drawn == "=== temperature 0.8 ===\n" + "".join(expected) + "\n"
    assert len(greedy) == 300 + 2


# A shell that runs the tests in the background has them ignore Ctrl-C.
COMMAND = """
import signal
from jaxlstm.__main__ import main

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def start_long_sample(run):
    """Starts to sample without end, as far as a test is concerned."""
    tokens = [sys.executable, "-c", COMMAND, "sample", run, "--length", "1000000000"]
    process = subprocess.Popen(
        tokens,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert len(process.stdout.read(100)) == 100
    return process


def test_interrupt_ends_quietly(run):
    with start_long_sample(run) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == b""


@pytest.mark.slow
def test_reader_may_leave(run):
    with start_long_sample(run) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
