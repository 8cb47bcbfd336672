"""Options of what a config names, checked against the signature of its factory."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import pydantic

from jaxlstm.lab.errors import UserError, suggest
from jaxlstm.lab.imports import load_object


def find_factory(
    where: str, name: str, table: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """Returns the factory of that name, or what an import path names.

    Args:
      where: the key the name stands at, for errors.
      name: a key of the table, or "package.module:name".
      table: the factories known by name.

    Raises:
      UserError: there is none.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return load_object(where, name)
    raise UserError(
        f'{where} = "{name}": unknown; {suggest(name, table)} (or write '
        '"package.module:name" for one of your own)'
    )


@functools.cache
def options_model(factory: Callable[..., Any]) -> type[pydantic.BaseModel]:
    """Returns a pydantic model of a factory's keyword-only parameters.

    Those that are functions, or anything at all (`Any`), are left out: no config can
    give them.
    """
    function = factory
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        function = function.__init__
    elif not inspect.isroutine(function):
        function = type(function).__call__
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if name in hints and _is_beyond_toml(hints[name]):
            continue
        default = parameter.default
        required = default is inspect.Parameter.empty
        fields[name] = hints.get(name, Any), ... if required else default
    config = pydantic.ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    name = getattr(factory, "__name__", "options")
    return pydantic.create_model(name, __config__=config, **fields)


def _is_beyond_toml(hint: Any) -> bool:
    """Returns whether a type is none that the values of a config are of."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not types.NoneType]
        return all(map(_is_beyond_toml, members))
    is_protocol = getattr(hint, "_is_protocol", False)
    return hint is Any or is_protocol or Callable in (hint, get_origin(hint))


def factory_options(
    where: str, name: str, factory: Any, arguments: Sequence[str]
) -> type[pydantic.BaseModel]:
    """Returns the model of a factory's options; refuses what is no factory.

    Args:
      where: the key the name stands at, for errors.
      name: what stands there.
      factory: what it names.
      arguments: what it is called with, beside its options.

    Raises:
      UserError: it cannot be called, does not say what it takes, or takes another
        number of arguments.
    """
    form = f"({', '.join([*arguments, '*', '...'])})"
    if not callable(factory):
        raise UserError(
            f'{where} = "{name}": is not a function; name one of the form {form}'
        )
    try:
        signature = inspect.signature(factory)
    except ValueError:
        signature = None
    if signature is None or isinstance(factory, types.BuiltinFunctionType):
        raise UserError(
            f'{where} = "{name}": is built into Python, and does not say what it '
            f"takes; name a function of the form {form}"
        )
    required = {
        parameter.name: None
        for parameter in signature.parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is parameter.empty
    }
    try:
        signature.bind(*arguments, **required)
    except TypeError:
        raise UserError(
            f'{where} = "{name}": takes {signature}; name a function of the form {form}'
        ) from None
    options = options_model(factory)
    lacking = [option for option in required if option not in options.model_fields]
    if lacking:
        raise UserError(
            f'{where} = "{name}": needs {lacking[0]}, which no config can give; name a '
            "function that gives it"
        )
    return options
