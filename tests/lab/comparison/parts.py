"""A comparison's directory as measurements leave it, of made-up figures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.lab.comparison.problem import Part
from jaxlstm.lab.comparison.store import Store

Values = dict[str, Any]

SNAPSHOTS = 0, 250, 500
WINDOWS, DRAWS, PARAMETERS = 4, 3, 5
BLOCKS = [
    f"layer {n}: {gate}"
    for n in (1, 2)
    for gate in ("input", "forget", "candidate", "output")
] + ["readout"]
GATES = ["input", "forget", "candidate", "output", "readout"]
ROUTES = ["same step", "state alone", *(f"through h: {gate}" for gate in GATES[:4])]
LEVELS = "0.9", "0.99"
LAGS, LENGTHS = [0, 1, 2, 4, 8, 16, 32], [16, 32, 64, 128]
REFUSED, REASON = "rtrl", "would take at least 512.0 GiB of memory, and there are 24"

# kind, forward in time, factor that is kept a lag, spread of draws, milliseconds, KiB.
MEMBERS: Mapping[str, tuple[str, bool, float, float, float, float]] = {
    "bptt": ("exact", False, 1.0, 0.0, 1.2, 90.0),
    "tbptt(horizon=4)": ("biased", False, 0.55, 0.0, 1.1, 70.0),
    "tbptt(horizon=10, stride=1)": ("biased", False, 0.8, 0.0, 6.5, 120.0),
    "artbp(p=0.1)": ("unbiased", False, 0.95, 0.4, 1.3, 90.0),
    "h_detach": ("biased", False, 0.85, 0.1, 1.3, 90.0),
    "eprop": ("biased", True, 0.75, 0.0, 2.4, 40.0),
    REFUSED: ("exact", True, 1.0, 0.0, 0.0, 0.0),
    "snap(n=1)": ("biased", True, 0.78, 0.0, 2.9, 45.0),
    "uoro": ("unbiased", True, 0.5, 9.0, 2.2, 30.0),
    "kf_rtrl": ("unbiased", True, 0.7, 3.0, 8.1, 200.0),
    "forward_gradient(num_directions=8)": ("unbiased", False, 0.3, 20.0, 3.8, 60.0),
    "pes": ("biased", False, 0.3, 30.0, 12.0, 400.0),
    'mine:带 | `own` $x_1$(mode="*a*")': ("biased", True, 0.6, 0.0, 5.0, 50.0),
}


def make_accuracy() -> Values:
    """Returns values of the part accuracy."""
    rng = np.random.default_rng(0)
    snapshots = []
    labels = ["exact", *(label for label in MEMBERS if label != REFUSED)]
    for update in SNAPSHOTS:
        exact = {"loss": 0.7 - update / 2000, "norm": 0.3, "data_variance": 0.21}
        exact["moved"] = 0.02 - update / 50000
        members: Values = {}
        for label, (kind, online, keeps, spread, *_) in MEMBERS.items():
            if label == REFUSED:
                members[label] = {"refused": REASON}
                continue
            floor = math.sqrt(spread / 64) if spread else None
            bias = 1e-16 if kind == "exact" else (1 - keeps) * (1 + update / 1000)
            if kind == "unbiased":
                bias = 0.97 * (floor or 0)
            noise = floor or 0.0
            whole = (1 - bias / 2) / math.sqrt(1 + noise**2)
            members[label] = {
                "kind": kind,
                "online_form": online,
                "draws": bool(spread),
                "num_draws": 64 if spread else 1,
                "frozen": {
                    "cosine": whole,
                    "norm_ratio": 1 - bias / 3 + noise / 2,
                    "relative_bias": bias,
                    "noise_floor": floor,
                    "debiased": math.sqrt(max(0.0, bias**2 - noise**2)),
                    "draw_variance": spread,
                    "data_variance": 0.21 * keeps,
                    "blocks": {
                        block: {
                            # A matrix without gradient has no direction.
                            "cosine": None if n == 8 else whole * (1 - 0.02 * n),
                            "norm_ratio": 1 - 0.03 * n * (kind == "biased"),
                        }
                        for n, block in enumerate(BLOCKS)
                    },
                },
                "online": {"cosine": 0.9 * whole, "norm_ratio": 0.95}
                if online
                else {"cosine": None, "norm_ratio": None},
            }
        size = len(labels)
        mixed = rng.uniform(-0.2, 1, size=(size, size))
        cosine = (mixed + mixed.T) / 2
        np.fill_diagonal(cosine, 1)
        snapshots.append(
            {
                "update": update,
                "exact": exact,
                "members": members,
                "alignment": {"labels": labels, "cosine": cosine.tolist()},
            }
        )
    reach = {
        label: {"refused": REASON}
        if label == REFUSED
        else {
            "cosine": [keeps**lag for lag in LAGS[:-1]] + [None],
            "norm_ratio": [keeps ** (lag / 2) for lag in LAGS],
            "noise_floor": [math.sqrt(spread / 64) if spread else None] * len(LAGS),
        }
        for label, (_, _, keeps, spread, *_) in MEMBERS.items()
    }
    return {
        "num_windows": WINDOWS,
        "segments_per_window": 2,
        "num_draws": 64,
        "blocks": BLOCKS,
        "snapshots": snapshots,
        "reach": {"update": SNAPSHOTS[-1], "lags": LAGS, "members": reach},
    }


def make_arrays(accuracy: Values) -> dict[str, np.ndarray]:
    """Returns raw draws of the part accuracy."""
    rng = np.random.default_rng(1)
    arrays = {}
    for snapshot in accuracy["snapshots"]:
        update = snapshot["update"]
        arrays[f"exact-{update}"] = rng.normal(size=(WINDOWS, PARAMETERS))
        for label, member in snapshot["members"].items():
            if "refused" not in member:
                shape = WINDOWS, min(DRAWS, member["num_draws"]), PARAMETERS
                draws = rng.normal(size=shape).astype(np.float32)
                arrays[f"draws-{update}-{label}"] = draws
    return arrays


def make_costs() -> Values:
    """Returns values of the part costs."""
    members: Values = {REFUSED: {"refused": REASON}}
    scaling: Values = {REFUSED: {"refused": REASON}}
    for label, (_, online, _, _, milliseconds, kibibytes) in MEMBERS.items():
        if label == REFUSED:
            continue
        seconds, memory = milliseconds / 1000, int(1024 * kibibytes)
        flops = None if label == "pes" else int(2e9 * seconds)
        members[label] = {
            "compile_seconds": 0.4 + 30 * seconds,
            "seconds": {
                "median": 1.02 * seconds,
                "low": seconds,
                "high": 1.3 * seconds,
            },
            "temporary_bytes": None if label == "uoro" else memory,
            "carried_bytes": 1024 * (1 + 20 * online),
            "flops": flops,
        }
        growth = [length / LENGTHS[1] for length in LENGTHS]
        scaling[label] = {
            "seconds": [seconds * g for g in growth],
            "seconds_median": [1.1 * seconds * g for g in growth],
            "temporary_bytes": [
                None if label == "uoro" else int(memory * (1 if online else g))
                for g in growth
            ],
            "flops": [flops and int(flops * g) for g in growth],
        }
    return {
        "segment_length": LENGTHS[1],
        "batch_size": 8,
        "members": members,
        "scaling": {"lengths": LENGTHS, "members": scaling},
    }


def make_races() -> Values:
    """Returns values of the part races."""
    updates, members = list(range(0, 501, 50)), {}
    for n, (label, (_, _, keeps, spread, milliseconds, _)) in enumerate(
        MEMBERS.items()
    ):
        if label == REFUSED:
            members[label] = {"refused": REASON}
            continue
        floor = 0.4545 + 0.2 * (1 - keeps)
        pace = 0.012 / (1 + spread)
        losses: list[list[float | None]] = [
            [
                floor + (0.69 - floor) * math.exp(-pace * u) + 0.002 * seed * (u > 0)
                for u in updates
            ]
            for seed in range(3)
        ]
        if label == "pes":  # Its last seed diverged.
            losses[-1][4:] = [None] * (len(updates) - 4)
        ends = [curve[-1] for curve in losses]
        known = [end for end in ends if end is not None]
        at_equal = {
            "mean": sum(known) / len(known) if len(known) == 3 else None,
            "low": min(known),
            "high": max(known) if len(known) == 3 else None,
        }
        members[label] = {
            "learning_rate": [1e-3, 3e-3, 1e-2][n % 3],
            "edge": ["low", None, "high"][n % 3],
            "tuning": [0.6, 0.5, 0.55 if n % 2 else None],
            "losses": losses,
            "seconds_per_update": milliseconds / 1000,
            "seconds_per_update_median": 1.05 * milliseconds / 1000,
            "at_equal_updates": at_equal,
            "at_equal_seconds": {
                "seconds": 0.55,
                "updates": int(500 * 1.1 / milliseconds),
                "updates_low": int(500 * 1.1 / 1.05 / milliseconds),
                **at_equal,
            },
        }
    return {
        "learning_rates": [1e-3, 3e-3, 1e-2],
        "updates": updates,
        "seeds": [0, 1, 2],
        "split": "validation",
        "num_updates": 500,
        "members": members,
        "references": [
            {"label": "knowing neither", "loss": 0.6616},
            {"label": "both", "loss": 0.4545},
        ],
    }


def make_lags() -> Values:
    """Returns values of the part lags."""
    steps, snapshots = 40, []
    for update, fades in zip(SNAPSHOTS, (0.6, 0.85, 0.9), strict=True):
        lag_norms = [fades**k for k in range(steps)]
        left = np.array([fades ** (k + 1) for k in range(steps)])
        kept, cosine = 1 - left, 1 - left**1.5
        weights = np.array([1, 2, 0.4, 0.6, -0.3, 0.2])
        table = np.outer(weights, [*lag_norms, 0.1])
        table[0, 1:] = 0
        table[1:, 0] = 0
        table /= table.sum()
        by_gate = np.outer(table.sum(axis=1), [0.3, 0.3, 0.2, 0.1, 0.1])
        keeps = {level: int(np.argmax(cosine >= float(level))) + 1 for level in LEVELS}
        snapshots.append(
            {
                "update": update,
                "num_steps": steps + 10,
                "num_lags": steps,
                "horizons": list(range(1, steps + 1)),
                "cosine": cosine.tolist(),
                "norm_ratio": kept.tolist(),
                "keeps": keeps if update else keeps | {"0.99": None},
                "recurrent": {
                    "cosine": (1 - left).tolist(),
                    "norm_ratio": (0.9 * kept).tolist(),
                    "relative_bias": left.tolist(),
                    "keeps": {"0.9": steps - 2, "0.99": None},
                },
                "lag_norms": lag_norms,
                "lag_shares": table.sum(axis=0).tolist(),
                "routes": ROUTES,
                "gates": GATES,
                "path_shares": {
                    "by_route": dict(
                        zip(ROUTES, table.sum(axis=1).tolist(), strict=True)
                    ),
                    "by_route_and_gate": by_gate.tolist(),
                    "by_route_and_lag": table[:, :-1].tolist(),
                    "beyond": table[:, -1].tolist(),
                },
            }
        )
    return {"snapshots": snapshots}


def make_flow() -> Values:
    """Returns values of the part flow."""
    steps, snapshots = 40, []
    for update, fades in zip(SNAPSHOTS, (0.7, 0.85, 0.9), strict=True):
        curve = [fades ** (steps - 1 - t) for t in range(steps)]
        layers = [
            {"name": f"layer {n}", "h": curve, "c": curve if n == 1 else None, "x": h}
            for n, h in ((1, [0.5 * v for v in curve]), (2, [0.3 * v for v in curve]))
        ]
        k = list(range(1, steps))
        snapshots.append(
            {
                "update": update,
                "steps": list(range(steps)),
                "layers": layers,
                "jacobians": {
                    "k": k,
                    "spectral": [fades**n for n in k],
                    "by_state": {
                        "h": [0.4 * fades**n for n in k],
                        "c": [0.9 * fades**n for n in k],
                    },
                    "forget_product": [0.7**n for n in k] if update else None,
                },
                "saturation": {
                    "input": {"low": 0.1, "high": 0.2 + update / 1000},
                    "forget": {"low": 0.0, "high": 0.6},
                    "candidate": {"low": 0.05, "high": 0.04},
                    "output": {"low": None, "high": None},
                },
                "terms": {
                    "dc/dc": {
                        "direct": 0.71,
                        "forget": 0.09,
                        "input": 0.05,
                        "candidate": 0.21,
                        "output": None,
                    },
                    "dh/dh": {
                        "direct": None,
                        "forget": 0.04,
                        "input": 0.03,
                        "candidate": 0.1,
                        "output": 0.02,
                    },
                },
            }
        )
    return {"snapshots": snapshots}


def make_vanishing() -> Values:
    """Returns values of the part vanishing."""
    k, curves = list(range(0, 101, 5)), []
    for cell, gain, bias, rate, predicted in [
        ("rnn", 0.5, None, 0.49, 0.5),
        ("rnn", 0.9, None, 0.898, 0.9),
        ("rnn", 2.0, None, 1.4, 2.0),
        ("gru", 0.9, None, 0.8, None),
        ("lstm", 0.9, 0.0, 0.52, 0.5),
        ("lstm", 0.9, 1.0, 0.74, 0.731),
        ("lstm", 0.9, 3.0, 0.96, 0.953),
    ]:
        if bias is not None:
            gain = None
        told = f"gain {gain}" if bias is None else f"forget bias {bias}"
        curves.append(
            {
                "cell": cell,
                "gain": gain,
                "forget_bias": bias,
                "label": f"{cell}, {told}",
                "norms": [rate**n for n in k],
                "rate": rate,
                "rate_error": 0.001,
                "predicted": predicted,
                "predicted_by": "spectral radius of W_h" if cell == "rnn" else None,
                "driven": 0.97 * rate,
                "driven_error": 0.02,
                "driven_norms": [(0.97 * rate) ** n for n in k],
                "driven_predicted": predicted and 0.96 * predicted,
                "driven_predicted_by": "geometric mean of the forget gate",
                "slope": None if cell == "lstm" else 0.9,
                "forget_product": [0.7**n for n in k] if cell == "lstm" else None,
                # The name of a GRU's gate, which is no snapshot.
                "saturation": {"update": {"low": 0.1, "high": 0.2}},
            }
        )
    return {"k": k, "hidden_size": 16, "num_examples": 4, "curves": curves}


MAKERS = {
    "costs": make_costs,
    "accuracy": make_accuracy,
    "lags": make_lags,
    "flow": make_flow,
    "vanishing": make_vanishing,
    "races": make_races,
}

CONFIG = """
seed = 0
[task]
use = "experiments.add:Add"
[model]
cell = "lstm"
hidden_size = 16
num_layers = 2
[estimator]
name = "bptt"
[optimizer]
name = "adam"
learning_rate = 1e-2
[train]
num_updates = 500
batch_size = 8
segment_length = 32
"""

FACTS = {
    "config": "compare_add",
    "seed": 0,
    "status": "finished",
    "num_updates": 500,
    "began": "2026-03-01T09:12:44",
    "seconds": 312.4,
    "data": {"length": "endless", "lags": [5, 9]},
    "versions": {"jaxlstm": "0.1.0", "python": "3.11.9", "jax": "0.10.2"},
    "devices": {"platform": "cpu", "kind": "cpu", "count": 2, "cores": 2},
    "settings": {},
    "flags": {},
    "import_path": [],
    "members": list(MEMBERS),
    "refused": {REFUSED: REASON},
}


def only(values: Any, labels: tuple[str, ...]) -> Any:
    """Returns the values of a part with these members alone."""
    if isinstance(values, list):
        return [only(item, labels) for item in values]
    if not isinstance(values, dict):
        return values
    kept = {
        key: only(
            {label: item[label] for label in labels} if key == "members" else item,
            labels,
        )
        for key, item in values.items()
    }
    if "labels" in kept:
        places = [kept["labels"].index(label) for label in ("exact", *labels)]
        kept["labels"] = [kept["labels"][n] for n in places]
        kept["cosine"] = [[kept["cosine"][m][n] for n in places] for m in places]
    return kept


def write(
    folder: Path,
    names: tuple[str, ...] = tuple(MAKERS),
    labels: tuple[str, ...] | None = None,
) -> dict[str, Values]:
    """Writes a comparison's directory, and returns the values of its parts.

    Args:
      folder: made if it is not there.
      names: of the parts that are there.
      labels: of the members, if not all.
    """
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG)
    facts = dict(FACTS) | ({"members": labels} if labels else {})
    Store(folder, facts).note()
    made = {name: MAKERS[name]() for name in names}
    if labels is not None:
        made = {name: only(values, labels) for name, values in made.items()}
    return save(folder, made)


def save(folder: Path, made: Mapping[str, Values]) -> dict[str, Values]:
    """Keeps parts in a comparison's directory, and returns them as they are read."""
    store, found = Store.open(folder), {}
    for name, values in made.items():
        arrays = make_arrays(values) if name == "accuracy" else {}
        found[name] = store.save(f"parts/{name}", Part(values, arrays), 1.0).values
    return found


def note(folder: Path, **facts: Any) -> None:
    """Changes facts of a comparison."""
    Store.open(folder).note(**facts)
