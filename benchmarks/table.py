"""The benchmarks. A new contestant is a row here."""

from typing import Any

from benchmarks.base import Benchmark, Contestant, Need

LAB = Need("optax", "lab")
TORCH = Need("torch", "peers")
FLAX = Need("flax", "flax")

TRAINING_STEP = Benchmark(
    name="training_step",
    summary="an LSTM layer; derivatives are by all weights and by the inputs",
    unit="call",
    sizes={
        "medium": {"T": 128, "B": 32, "X": 64, "H": 128},
        "small": {"T": 128, "B": 16, "X": 64, "H": 64},
        "wide": {"T": 50, "B": 50, "X": 128, "H": 256},
        "large": {"T": 256, "B": 64, "X": 128, "H": 512},
    },
    quantities=("gradient", "forward", "jvp"),
    contestants=(
        Contestant(
            name="jaxlstm autodiff",
            use="benchmarks.training_step:prepare",
            options={"forward": "autodiff"},
        ),
        Contestant(
            name="jaxlstm rule",
            use="benchmarks.training_step:prepare",
            options={"forward": "rule"},
            targets={"gradient": 1.4},
        ),
        Contestant(
            name="lax.scan of lstm_cell",
            use="benchmarks.training_step:prepare",
            options={"forward": "scan"},
        ),
        Contestant(
            name="jaxlstm autodiff, 2 devices",
            use="benchmarks.training_step:prepare",
            options={"forward": "autodiff", "devices": 2},
        ),
        Contestant(
            name="jaxlstm rule, 2 devices",
            use="benchmarks.training_step:prepare",
            options={"forward": "rule", "devices": 2},
            targets={"gradient": 2.2},
        ),
        Contestant(
            name="PyTorch nn.LSTM",
            use="benchmarks.peers.torch_training_step:prepare",
            needs=(TORCH,),
        ),
    ),
    baseline="jaxlstm autodiff",
    tolerance=1e-4,
)


def _flax(package: str, **targets: float) -> Contestant:
    """Returns the modules of a package as a contestant."""
    return Contestant(
        name=package,
        use="benchmarks.flax_modules:prepare",
        options={"package": package},
        needs=(FLAX,),
        targets=targets,
    )


FLAX_MODULES = Benchmark(
    name="flax_modules",
    summary="RNN(OptimizedLSTMCell); derivatives are by all weights and by the inputs",
    unit="call",
    sizes={size: TRAINING_STEP.sizes[size] for size in ("medium", "small")},
    quantities=("gradient", "forward"),
    contestants=(
        _flax("flax.linen"),
        _flax("jaxlstm.flax.linen", gradient=1.2),
        _flax("flax.nnx"),
        _flax("jaxlstm.flax.nnx", gradient=1.2),
    ),
    baseline="flax.linen",
    tolerance=1e-4,
)

SMALL_NET = Benchmark(
    name="small_net",
    summary="sine to cosine: a training loop with Adam, the state carried from window "
    "to window",
    unit="update",
    sizes={"default": {"T": 10, "B": 1, "X": 1, "H": 32, "updates": 500}},
    quantities=("training",),
    contestants=(
        Contestant(
            name="jaxlstm, all updates in one call",
            use="benchmarks.small_net:prepare",
            needs=(LAB,),
            targets={"training": 20},
        ),
        Contestant(
            name="jaxlstm, one update a call",
            use="benchmarks.small_net:prepare",
            options={"updates_per_call": 1},
            needs=(LAB,),
        ),
        Contestant(
            name="PyTorch, one thread",
            use="benchmarks.peers.torch_small_net:prepare",
            needs=(LAB, TORCH),
        ),
        Contestant(
            name="PyTorch, one thread, fused Adam",
            use="benchmarks.peers.torch_small_net:prepare",
            options={"fused": True},
            needs=(LAB, TORCH),
        ),
    ),
    baseline="PyTorch, one thread",
    tolerance=1e-3,
)

SAMPLING = Benchmark(
    name="sampling",
    summary="text from a character model, symbol by symbol",
    unit="symbol",
    sizes={"default": {"N": 10_000, "X": 65, "H": 128, "L": 2}},
    quantities=("sampling", "greedy"),
    contestants=(
        Contestant(
            name="jaxlstm",
            use="benchmarks.sampling:prepare",
            needs=(LAB,),
            targets={"sampling": 10, "greedy": 10},
        ),
        Contestant(
            name="jaxlstm, one symbol a call",
            use="benchmarks.sampling:prepare",
            options={"chunk_size": 1},
            needs=(LAB,),
        ),
        Contestant(
            name="PyTorch, one thread",
            use="benchmarks.peers.torch_sampling:prepare",
            needs=(LAB, TORCH),
        ),
    ),
    baseline="PyTorch, one thread",
    # Symbols are whole numbers: one that differs is off by far more.
    tolerance=1e-3,
)


def _char_lm(config: str, target: float, **row: Any) -> Benchmark:
    """Returns the training of a run's model, against PyTorch's loop."""
    torch = "benchmarks.peers.torch_char_lm:prepare"
    return Benchmark(
        name=config,
        unit="update",
        quantities=("training",),
        contestants=(
            Contestant(
                name="jaxlstm",
                use="benchmarks.char_lm:prepare",
                options={"config": config},
                needs=(LAB,),
                targets={"training": target},
            ),
            Contestant(
                name="jaxlstm, 1 device",
                use="benchmarks.char_lm:prepare",
                options={"config": config, "one_device": True},
                needs=(LAB,),
            ),
            Contestant(
                name="PyTorch",
                use=torch,
                options={"config": config},
                needs=(LAB, TORCH),
            ),
            Contestant(
                name="PyTorch, foreach",
                use=torch,
                options={"config": config, "foreach": True},
                needs=(LAB, TORCH),
            ),
        ),
        baseline="PyTorch",
        **row,
    )


TINY_SHAKESPEARE = _char_lm(
    "tiny_shakespeare",
    target=1.2,
    summary="the model of char-rnn: two layers, RMSProp, each entry clipped",
    sizes={
        "default": {"T": 50, "B": 50, "X": 65, "H": 128, "L": 2, "updates": 25},
    },
    # RMSProp's first steps take the sign even of entries that are but rounding: 1e-4.
    tolerance=1e-3,
)

TIME_MACHINE = _char_lm(
    "time_machine",
    target=1.0,
    summary="the model of Dive into Deep Learning: one layer, SGD, the norm clipped",
    sizes={
        "default": {"T": 35, "B": 32, "X": 28, "H": 256, "L": 1, "updates": 40},
    },
    # SGD leaves rounding as it is: 6e-7.
    tolerance=1e-5,
)

LINEAR_RECURRENCE = Benchmark(
    name="linear_recurrence",
    summary="a minLSTM layer; derivatives are by all weights and by the inputs",
    unit="call",
    sizes={
        "long": {"T": 16384, "B": 1, "X": 64, "H": 64},
        "short": {"T": 128, "B": 32, "X": 64, "H": 128},
        "narrow": {"T": 1024, "B": 1, "X": 16, "H": 16},
    },
    quantities=("gradient", "forward"),
    contestants=tuple(
        Contestant(
            name=name,
            use="benchmarks.linear_recurrence:prepare",
            options={"forward": forward},
        )
        for name, forward in (
            ("jaxlstm, scan", "scan"),
            ("jaxlstm, parallel", "parallel"),
            ("associative_scan by hand", "by_hand"),
        )
    ),
    baseline="jaxlstm, scan",
    tolerance=1e-4,
)

BENCHMARKS = {
    row.name: row
    for row in (
        TRAINING_STEP,
        LINEAR_RECURRENCE,
        FLAX_MODULES,
        SMALL_NET,
        SAMPLING,
        TINY_SHAKESPEARE,
        TIME_MACHINE,
    )
}
