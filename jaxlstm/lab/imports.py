"""Objects named by their import path, `package.module:name`."""

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from jaxlstm.lab.errors import UserError, suggest


def extend_path(*folders: Path) -> None:
    """Lets modules be imported from these folders, the first one first."""
    for folder in reversed(folders):
        name = str(folder.resolve())
        if name in sys.path:
            sys.path.remove(name)
        sys.path.insert(0, name)


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
