"""Nothing is unpickled or evaluated, and nothing is written or imported elsewhere."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import tiny

ROOT = Path(__file__).parents[1]
# What turns data into code, or starts programs. By module, or by `module.function`.
FORBIDDEN_MODULES = {
    "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml",
    "subprocess", "multiprocessing", "pty", "ctypes", "runpy", "code",
}  # fmt: skip
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.fork",
    "os.startfile", "torch.load", "np.loadtxt", "np.genfromtxt", "np.fromregex",
    "jnp.load", "importlib.import_module",
}  # fmt: skip
FORBIDDEN_STARTS = "os.exec", "os.spawn", "os.posix_spawn"
# (file, what): why it may.
EXCEPTIONS = {
    (
        "jaxlstm/lab/imports.py",
        "importlib.import_module",
    ): "imports what a config names",
}


def find_dangers(tree: ast.Module) -> Iterator[str]:
    """Yields the forbidden modules and functions that a file uses."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if is_forbidden_call(f"{node.module}.{alias.name}")
            )
        yield from (n for n in names if n.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        harmless = loads_weights_alone(node) or imports_what_it_names(node)
        if is_forbidden_call(name) and not harmless:
            yield name
        for keyword in node.keywords:
            value = keyword.value
            refused = isinstance(value, ast.Constant) and value.value is False
            if keyword.arg == "allow_pickle" and not refused:
                yield "allow_pickle"


def loads_weights_alone(call: ast.Call) -> bool:
    """Returns whether a file of PyTorch is read by the reader that runs nothing."""
    keywords = {each.arg: ast.unparse(each.value) for each in call.keywords}
    return (
        ast.unparse(call.func) == "torch.load"
        and keywords.get("weights_only") == "True"
        and None not in keywords
    )


def imports_what_it_names(call: ast.Call) -> bool:
    """Returns whether a module is imported whose package stands in the call."""
    if ast.unparse(call.func) != "importlib.import_module" or not call.args:
        return False
    name = call.args[0]
    if isinstance(name, ast.JoinedStr):
        package, dot, _ = ast.unparse(name.values[0]).partition(".")
        named = bool(dot) and isinstance(name.values[0], ast.Constant)
    else:
        package, named = ast.unparse(name), isinstance(name, ast.Constant)
    return named and package.strip("'").split(".")[0] not in FORBIDDEN_MODULES


def is_forbidden_call(name: str) -> bool:
    return name in FORBIDDEN_CALLS or name.startswith(FORBIDDEN_STARTS)


def test_no_file_turns_data_into_code():
    found = set()
    files = [
        p for top in ("jaxlstm", "experiments") for p in ROOT.glob(f"{top}/**/*.py")
    ]
    assert len(files) > 50
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        found |= {(name, what) for what in find_dangers(ast.parse(path.read_bytes()))}

    assert found == EXCEPTIONS.keys()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import numpy, pickle as p",
        "from pickle import loads",
        "from os import system",
        "import multiprocessing.pool",
        "eval(text)",
        "exec(text, {})",
        "compile(text, '', 'exec')",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "os.system(text)",
        "os.execvp(text, [])",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.load(path, weights_only=True, **more)",
        "importlib.import_module(text)",
        "importlib.import_module('pickle')",
        "importlib.import_module(f'{text}.part')",
        "importlib.import_module(f'py{text}.part')",
        "importlib.import_module(f'multiprocessing.{text}')",
    ],
)
def test_the_search_finds(line: str):
    assert list(find_dangers(ast.parse(line)))


def test_the_search_finds_nothing_in_what_is_harmless():
    text = (
        "torch.load(x, weights_only=True)\nimportlib.import_module('onnx.helper')\n"
        "importlib.import_module(f'onnx.{part}')\n"
        "re.compile(x)\nnp.load(x, allow_pickle=False)\ntrainer.compile(a)\nimport os"
    )
    assert list(find_dangers(ast.parse(text))) == []


# Runs commands in a process that ends at the first thing that it must not do: what is
# watched over is listed by Python's table of audit events.
WATCHED = """
import os, sys

allowed = tuple(os.path.realpath(path) + os.sep for path in sys.argv[1].split(":"))

def inside(path):
    if isinstance(path, int):
        return True
    name = os.path.realpath(os.fsdecode(path))
    return (name + os.sep).startswith(allowed) or name == os.devnull

def watch(event, arguments):
    bad = False
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        bad = bool(writes) and not inside(path)
    elif event == "os.mkdir":
        # Of what there is, it only says so.
        bad = not inside(arguments[0]) and not os.path.isdir(arguments[0])
    elif event in ("os.remove", "os.rmdir", "os.truncate", "os.chmod"):
        # With the number of an open folder, it is part of a shutil.rmtree.
        in_open = event in ("os.remove", "os.rmdir") and arguments[1] != -1
        bad = not in_open and not inside(arguments[0])
    elif event in ("os.rename", "os.link", "os.symlink"):
        bad = not (inside(arguments[0]) and inside(arguments[1]))
    elif event in ("shutil.rmtree", "shutil.move"):
        bad = not inside(arguments[0])
    else:
        bad = event in (
            "pickle.find_class", "marshal.load", "marshal.loads.data", "socket.connect",
            "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.fork",
            "os.posix_spawn", "os.spawn",
        )
    if bad:
        os.write(2, f"FORBIDDEN {event} {arguments}\\n".encode())
        os._exit(99)

from jaxlstm.lab import commands
%s
sys.addaudithook(watch)
%s
print("through")
"""
COMMANDS = """
def call(*tokens):
    try:
        commands.main(list(tokens))
    except SystemExit as stop:
        assert not stop.code, (tokens, stop.code)

call("run", "text.toml", "--out", "made")
text = open("made/config.toml").read()
with open("made/config.toml", "w") as stream:
    stream.write(text.replace("num_updates = 4", "num_updates = 6"))
call("resume", "made", "--allow-change", "train.num_updates")
assert '"update": 6' in open("made/metrics.jsonl").read()
call("eval", "made")
call("sample", "made", "--length", "5")
call("plot", "made")
call("export", "made")
call("export", "made", "--format", "torch", "--out", "made/net.safetensors")
for name in ("weights", "net"):
    file = f"made/{name}.safetensors"
    call("import", file, "made/config.toml", "--out", f"made/{name}")
    assert os.path.isfile(f"made/{name}/run.json")
"""
TEXT = """
[task]
use = "experiments.text:Text"
source = "text.txt"
contrast = []
[model]
hidden_size = 3
[train]
num_updates = 4
batch_size = 2
segment_length = 4
eval_every = 2
[checkpoint]
every = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config, and a text it names."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "text.txt").write_text("To be, or not to be: that is the question.\n" * 20)
    (work / "text.toml").write_text(TEXT)
    return work


def start(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def caches() -> list[str]:
    """What may be written to beside a run directory, in a process that tests start."""
    import jax
    import matplotlib
    import pooch

    compiled = jax.config.values["jax_compilation_cache_dir"]
    return [compiled or str(pooch.os_cache("jaxlstm")), matplotlib.get_cachedir()]


@pytest.mark.slow
def test_commands_write_into_the_run_directory_and_run_no_foreign_code(folder: Path):
    code = WATCHED % ("", COMMANDS)
    allowed = ":".join([str(folder / "made"), *caches()])

    process = start(code, allowed, cwd=folder)

    assert "FORBIDDEN" not in process.stderr
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith("through\n")
    assert {path.name for path in folder.iterdir()} == {"text.txt", "text.toml", "made"}


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("open('elsewhere', 'w')", "open"),
        ("os.mkdir('elsewhere')", "os.mkdir"),
        ("os.rename('text.txt', 'made.txt')", "os.rename"),
        ("os.remove('text.txt')", "os.remove"),
        (
            "import pickle; pickle.loads(pickle.dumps(os.path.join))",
            "pickle.find_class",
        ),
        ("import subprocess; subprocess.Popen(['true'])", "subprocess.Popen"),
        (
            "import socket; socket.socket().connect(('127.0.0.1', 1))",
            "socket.connect",
        ),
    ],
)
def test_the_watch_sees(line: str, event: str, folder: Path):
    code = (WATCHED % ("", line)).replace("from jaxlstm.lab import commands\n", "")
    process = start(code, str(folder / "made"), cwd=folder)

    assert process.returncode == 99
    assert process.stderr.startswith(f"FORBIDDEN {event} ")


PLANTED = "raise SystemExit('a planted module was imported')\n"
NAMES = (
    "jax", "numpy", "sitecustomize", "pooch", "requests", "matplotlib", "random",
    "fractions", "colorsys", "zstandard", "tiny", "experiments", "jaxlstm",
)  # fmt: skip
IMPORTS = """
import sys
from pathlib import Path
from jaxlstm.lab.config import load_config
run = Path(sys.argv[1])
loaded = load_config(run / "config.toml", folders=[run])
assert type(loaded.task).__module__ == "own_task"
import colorsys, fractions, matplotlib.figure, pooch, random, requests
print("through")
"""


def test_no_module_beside_a_config_stands_in_for_an_installed_one(tmp_path: Path):
    """The config's own folder is one in which the task is looked for."""
    run = tmp_path / "stranger"
    run.mkdir()
    for name in NAMES:
        (run / f"{name}.py").write_text(PLANTED)
    (run / "own_task.py").write_text("from tests.lab.tiny import Tiny\n\n\n"
                                     "class Own(Tiny):\n    pass\n")  # fmt: skip
    config = tiny.CONFIG.replace("tests.lab.tiny:Tiny", "own_task:Own")
    (run / "config.toml").write_text(config)
    process = start(IMPORTS, str(run), cwd=tmp_path)

    assert process.returncode == 0, process.stderr
    assert process.stdout == "through\n"


def test_what_a_config_names_comes_from_its_folders_first(tmp_path: Path):
    """An installed package of the same name is not taken for the user's own."""
    own, installed = tmp_path / "own", tmp_path / "installed"
    for folder, base in ((own, "Here"), (installed, "There")):
        (folder / "shared_name").mkdir(parents=True)
        (folder / "shared_name" / "__init__.py").write_text("")
        (folder / "shared_name" / "parts.py").write_text(f"found = {base!r}\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from jaxlstm.lab.imports import extend_path, load_object\n"
        "sys.path.insert(0, sys.argv[2]); extend_path(Path(sys.argv[1]))\n"
        "print(load_object('[task] use', 'shared_name.parts:found'))"
    )

    process = start(code, str(own), str(installed), cwd=tmp_path)

    assert process.stdout == "Here\n", process.stderr
