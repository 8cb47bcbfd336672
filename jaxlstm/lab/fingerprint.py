"""What the bytes of a run depend on, and how a resumed run is held to it."""

import difflib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

import jaxlstm
from jaxlstm.lab.config import Config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.machine import instruction_set, usable_cores

# Keys of a config that change when a run is saved or how fast it goes, and no figure.
_WITHOUT_EFFECT = "checkpoint.", "logging.tensorboard", "train.updates_per_call"
# Keys that a run makes nothing of.
_COMPARISON = "compare."

# What of JAX's own configuration changes figures.
_FLAGS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_jit",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)

Facts = dict[str, dict[str, Any]]


class Change(NamedTuple):
    """A part of the fingerprint that is not what it was.

    Attributes:
      key: of the config, such as train.batch_size, or versions.jax and the like.
      was: when the run began.
      now: its value now.
    """

    key: str
    was: Any
    now: Any


def settings(config: Config, *, comparison: bool = False) -> dict[str, Any]:
    """Returns the keys of a resolved config that figures depend on.

    Args:
      config: the config.
      comparison: whether the figures are those of a comparison, and not of a run.
    """
    # In the form that they have when they are read back.
    values = json.loads(json.dumps(config.resolved()))
    without = _WITHOUT_EFFECT if comparison else (*_WITHOUT_EFFECT, _COMPARISON)
    return {
        key: value
        for key, value in flatten(values).items()
        if not key.startswith(without)
    }


def software(config: Config) -> Facts:
    """Returns what is known before anything is put together."""
    packages = "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint"
    return {
        "settings": settings(config),
        "versions": {
            "jaxlstm": jaxlstm.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "flags": {
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            **{name: jax.config.values[name] for name in _FLAGS},
            # A config of float64 switches it on by itself.
            "jax_enable_x64": config.sections.model.dtype == "float64"
            or jax.config.values["jax_enable_x64"],
        },
    }


def hardware(mesh: Mesh) -> Facts:
    """Returns what the batch is spread over."""
    devices = list(mesh.devices.flat)
    return {
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "cores": usable_cores(),
            "instructions": instruction_set(),
        }
    }


def find_changes(was: Mapping[str, Any], now: Facts) -> list[Change]:
    """Returns what differs, by key.

    Args:
      was: what run.json holds.
      now: some of the groups of the fingerprint.
    """
    changes = []
    for group, values in now.items():
        before = was.get(group, {})
        prefix = "" if group == "settings" else f"{group}."
        for key in [*values, *[key for key in before if key not in values]]:
            if before.get(key) != values.get(key):
                changes.append(
                    Change(f"{prefix}{key}", before.get(key), values.get(key))
                )
    return changes


def check_changes(
    where: str, changes: Sequence[Change], allowed: Sequence[str]
) -> None:
    """Refuses changes that are not allowed, a line for each.

    Args:
      where: the run, for errors.
      changes: what has changed.
      allowed: keys that may have, or groups of them: "devices" for "devices.count".

    Raises:
      UserError: some may not.
    """
    refused = [
        change
        for change in changes
        if not any(f"{change.key}.".startswith(f"{key}.") for key in allowed)
    ]
    if len(refused) > 9:
        keys = ", ".join(change.key for change in refused[:5])
        raise UserError(
            f"{where}: {len(refused)} keys are not what they were when the run began, "
            f"among them {keys}; bring back its config.toml and run.json"
        )
    if refused:
        raise UserError(
            *[
                f"{where}: {change.key} was {_show(change.was)} when the run began and "
                f"is {_show(change.now)}; bring it back, or go on, no longer to the "
                f"same bytes, with --allow-change {change.key}"
                for change in refused
            ]
        )


def check_allowed(allowed: Sequence[str], facts: Facts) -> None:
    """Refuses what names no part of a fingerprint."""
    known = [
        key if group == "settings" else f"{group}.{key}"
        for group, values in facts.items()
        for key in values
    ]
    for key in allowed:
        if not any(f"{name}.".startswith(f"{key}.") for name in known):
            close = difflib.get_close_matches(key, [*known, *facts], n=1)
            remedy = (
                f"did you mean {close[0]}?"
                if close
                else "name one that resume has refused, or versions, flags or devices"
            )
            raise UserError(
                f"--allow-change {key}: is no key of a config and no part of the "
                f"fingerprint in run.json; {remedy}"
            )


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    return repr(value) if isinstance(value, str) else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested sections by their keys, such as train.batch_size."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
