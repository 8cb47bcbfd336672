"""The command `jaxlstm`, also `python -m jaxlstm`."""

import sys


def main() -> None:
    """Runs the laboratory's command line, if the laboratory is installed."""
    try:
        from jaxlstm.lab import commands
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "jaxlstm":
            raise
        print(
            f"jaxlstm: {error.name} is not installed; the command needs "
            "pip install 'jaxlstm[lab]'",
            file=sys.stderr,
        )
        sys.exit(2)
    commands.main()


if __name__ == "__main__":
    main()
