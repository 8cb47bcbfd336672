"""Objects named by their import path, `package.module:name`."""

import importlib
import sys
import sysconfig
import traceback
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from jaxlstm.lab.errors import UserError, suggest


class _Folder(str):
    """An entry of `sys.path` that a config brought."""


def extend_path(*folders: Path) -> None:
    """Lets modules be imported from these folders, the first one first.

    What a config names by its import path is looked for in them before all others. All
    else that is imported is not: no file that happens to lie there stands in for a
    module of Python's or of an installed package.

    Raises:
      UserError: one of them is no path.
    """
    added = []
    for folder in dict.fromkeys(folders):
        try:
            added.append(_Folder(folder.resolve()))
        except (OSError, RuntimeError, ValueError) as error:
            # Too long, a link to itself, or with a NUL in it.
            raise UserError(
                f"{folder}: no folder to look for modules in: {error}; name another"
            ) from None
    older = [p for p in sys.path if isinstance(p, _Folder) and p not in added]
    others = [p for p in sys.path if not isinstance(p, _Folder)]
    sys.path[:] = [*others, *added, *older]


def load_object(where: str, path: str) -> Any:
    """Imports what `package.module:name` names.

    Args:
      where: the key it stands at, for errors.
      path: the import path.

    Raises:
      UserError: the path is malformed, there is no such module or name, or the module
        itself fails, which is the cause of the error.
    """
    module_name, colon, name = path.partition(":")
    words = module_name.split(".")
    if not colon or not name.isidentifier() or not all(w.isidentifier() for w in words):
        raise UserError(
            f'{where} = "{path}": not an import path; write "package.module:name"'
        )
    try:
        _import_from_folders(words[0])
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise _failed(where, path, error) from error
        raise UserError(
            f'{where} = "{path}": no module {missing}; it is looked for in the current '
            "folder, the config's and the one above that, and among installed packages"
        ) from None
    except (Exception, SystemExit) as error:
        raise _failed(where, path, error) from error
    try:
        found = hasattr(module, name)
    except Exception as error:
        raise _failed(where, path, error) from error
    if not found:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(
            f'{where} = "{path}": module {module_name} has no {name}; '
            f"{suggest(name, public)}"
        )
    return getattr(module, name)


def _import_from_folders(name: str) -> None:
    """Imports a top-level module if a folder that a config brought has it."""
    folders = [p for p in sys.path if isinstance(p, _Folder)]
    spec = None if name in sys.modules else PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _failed(where: str, path: str, error: BaseException) -> UserError:
    """Returns what is said of a module that raises an error while it is imported."""
    module_name = path.partition(":")[0]
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
        reason = f"{type(error).__name__}: {error.msg}"
    else:
        place = _place(error) or module_name
    return UserError(
        f'{where} = "{path}": the module cannot be imported: {place}: {reason}; mend '
        f"it, and see more by `python -c 'import {module_name}'`"
    )


def _place(error: BaseException) -> str | None:
    """Returns the line of the user's own code that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    # Nor what imports it: this module, importlib, and what has no file.
    importing = "<", __file__, importlib.__file__
    frames = [f for f in frames if not f.filename.startswith(importing)]
    paths = sysconfig.get_paths()
    installed = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib"))
    own = [f for f in frames if not f.filename.startswith(installed)] or frames
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None
