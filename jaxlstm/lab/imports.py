"""Objects named by their import path, `package.module:name`."""

import importlib
import sys
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
      UserError: the path is malformed, or there is no such module or name. An error
        inside the module itself is not caught.
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
            raise
        raise UserError(
            f'{where} = "{path}": no module {missing}; it is looked for in the current '
            "folder, the config's and the one above that, and among installed packages"
        ) from None
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(
            f'{where} = "{path}": module {module_name} has no {name}; '
            f"{suggest(name, public)}"
        )
    return getattr(module, name)
