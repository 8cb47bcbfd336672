"""Config files: what is refused, in which words; defaults and overrides."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

from jaxlstm.lab import UserError
from jaxlstm.lab.config import apply_overrides, load_config
from tests.lab import tiny

UNKNOWN = "unknown key; "
BUILT_IN = (
    "is built into Python, and does not say what it takes; name a function of the form"
)
SECTION = "is not a section; write [{}] and its keys below"
OWN_NAME = '(or write "package.module:name" for one of your own)'
LOOKED_FOR = (
    "it is looked for in the current folder, the config's and the one above that, and "
    "among installed packages"
)

# What is set, at which key the fault is found, and what is said of it.
FAULTS = [
    # Unknown and misspelt keys.
    ("train.segment_lenght=3", f"{UNKNOWN}did you mean segment_length?"),
    ("optimizer.learning_rat=0.1", f"{UNKNOWN}did you mean learning_rate?"),
    ("optimizer.clip.nrom=1.0", f"{UNKNOWN}did you mean norm?"),
    ("optimizer.schedule.warmpu=3", f"{UNKNOWN}did you mean warmup?"),
    ("optimizer.betta=0.5", f"{UNKNOWN}use one of name, learning_rate, "),
    ("model.forget_bais=1.0", f"{UNKNOWN}did you mean forget_bias?"),
    ("estimator.remaat='none'", f"{UNKNOWN}did you mean remat?"),
    ("task.scael=1.0", f"{UNKNOWN}did you mean scale?"),
    ("task.colour=1.0", f"{UNKNOWN}use one of use, scale, num_segments"),
    ("sed=1", f"{UNKNOWN}did you mean seed?"),
    # Wrong types.
    ("model.hidden_size='4'", '= "4": is not an integer'),
    ("model.hidden_size=4.5", "= 4.5: is not an integer"),
    ("train.num_updates=true", "= true: is not an integer"),
    ("optimizer.learning_rate='fast'", '= "fast": is not a number'),
    ("model.forget_bias='one'", '= "one": is not a number'),
    ("model.tied=1", "= 1: is not true or false"),
    ("task.use=3", "= 3: is not a string; put it in quotes"),
    ("task.scale=[1.0]", "= [1.0]: is not a number"),
    ("train=3", f"= 3: {SECTION.format('train')}"),
    ("optimizer.clip=1.0", f"= 1.0: {SECTION.format('optimizer.clip')}"),
    ("devices='two'", "= \"two\": use 'all' or is not an integer"),
    # Numbers out of range.
    ("model.hidden_size=0", "= 0: use a number greater than 0"),
    ("train.batch_size=-2", "= -2: use a number greater than 0"),
    ("train.segment_length=0", "= 0: use a number greater than 0"),
    ("optimizer.learning_rate=0.0", "= 0.0: use a number greater than 0.0"),
    ("optimizer.learning_rate=nan", "= nan: is not a finite number"),
    ("optimizer.learning_rate=inf", "= inf: is not a finite number"),
    ("optimizer.clip.norm=-inf", "= -inf: is not a finite number"),
    ("optimizer.clip.value=-1.0", "= -1.0: use a number greater than 0.0"),
    ("optimizer.schedule.final=2.0", "= 2.0: use a number of at most 1.0"),
    ("optimizer.b1=1.0", "= 1.0: use a number less than 1.0"),
    ("optimizer.b1=-0.1", "= -0.1: use a number of at least 0.0"),
    ("model.forget_bias=nan", "= nan: is not a finite number"),
    ("task.scale=inf", "= inf: is not a finite number"),
    ("task.scale=-1.0", "= -1.0: use a number greater than 0.0"),
    ("seed=-1", "= -1: use a number of at least 0"),
    ("seed=4294967296", "= 4294967296: use a number less than 4294967296"),
    ("logging.every=0", "= 0: use a number greater than 0"),
    ("checkpoint.keep=0", "= 0: use a number greater than 0"),
    # Names.
    ("optimizer.name='adm'", f'= "adm": unknown; did you mean adam? {OWN_NAME}'),
    ("estimator.name='bppt'", f'= "bppt": unknown; did you mean bptt? {OWN_NAME}'),
    ("model.cell='lstn'", f'= "lstn": unknown; did you mean lstm? {OWN_NAME}'),
    (
        "model.initializer='uniform_8'",
        '= "uniform_8": unknown; did you mean uniform_08?',
    ),
    (
        "optimizer.schedule.name='cos'",
        "= \"cos\": use 'constant', 'cosine', 'exponential' or 'steps'",
    ),
    ("estimator.remat='all'", "= \"all\": use 'none', 'step', 'sqrt' or 'sqrt_step'"),
    ("model.dtype='float16'", "= \"float16\": use 'float32' or 'float64'"),
    ("train.average='mean'", "= \"mean\": use 'steps' or 'batch'"),
    # Import paths.
    ("task.use='tiny'", '= "tiny": not an import path; write "package.module:name"'),
    ("task.use='a-b:C'", '= "a-b:C": not an import path; write "package.module:name"'),
    ("task.use='nowhere:C'", f'= "nowhere:C": no module nowhere; {LOOKED_FOR}'),
    (
        "task.use='tests.lab.none:C'",
        f'= "tests.lab.none:C": no module tests.lab.none; {LOOKED_FOR}',
    ),
    (
        "task.use='tests.lab.tiny:Tiney'",
        '= "tests.lab.tiny:Tiney": module tests.lab.tiny has no Tiney; '
        "did you mean Tiny?",
    ),
    (
        "task.use='tests.lab.tiny:Source'",
        '= "tests.lab.tiny:Source": is not a class derived from Task',
    ),
    ("model.cell='nowhere:c'", f'= "nowhere:c": no module nowhere; {LOOKED_FOR}'),
    (
        "model.cell='math:pi'",
        '= "math:pi": is not a function; name one of the form (*, ...)',
    ),
    ("model.cell='math:sin'", f'= "math:sin": {BUILT_IN} (*, ...)'),
    ("estimator.name='math:sin'", f'= "math:sin": {BUILT_IN} (model, loss_fn, *, ...)'),
    (
        "optimizer.name='os:system'",
        f'= "os:system": {BUILT_IN} (learning_rate, *, ...)',
    ),
    (
        "model.cell='os:makedirs'",
        '= "os:makedirs": takes (name, mode=511, exist_ok=False); name a function of '
        "the form (*, ...)",
    ),
    ("model.cell='tests.lab.tiny:Tiny'", '= "tests.lab.tiny:Tiny": does not make a '),
    (
        "estimator.name='math:pi'",
        '= "math:pi": is not a function; name one of the form (model, loss_fn, *, ...)',
    ),
]


def located(key: str, source: Path | None) -> str:
    """Returns the place that an error names: in a file, or in an override."""
    if source is None:
        return f"override {key}"
    *sections, last = key.split(".")
    return (
        f"{source}: [{'.'.join(sections)}] {last}" if sections else f"{source}: {key}"
    )


def check_refused(command, folder, *tokens):
    """Runs a config that must be refused with nothing left on disk."""
    before = sorted(folder.rglob("*"))
    outcome = command("run", *tokens)
    assert outcome.code == 2
    assert outcome.out == ""
    assert sorted(folder.rglob("*")) == before
    return outcome.faults


@pytest.mark.parametrize("place", ["file", "override"])
@pytest.mark.parametrize(
    ("override", "message"),
    FAULTS,
    ids=[override for override, _ in FAULTS],
)
def test_fault_is_one_line(place, override, message, config, command, tmp_path):
    key = override.partition("=")[0]
    separator = "" if message.startswith("=") else ":"
    if place == "file":
        values = tomllib.loads(config.read_text())
        apply_overrides(values, [override])
        config.write_text(tomli_w.dumps(values))
        where = located(key, config)
        (line,) = check_refused(command, tmp_path, config)
    else:
        where = located(key, None)
        (line,) = check_refused(command, tmp_path, config, override)
    expected = f"{where}{separator} {message}"
    if message.startswith(f"{UNKNOWN}use") or message.endswith("a "):
        assert line.startswith(expected)
    else:
        assert line == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.toml", None, "no such file; configs end in .toml"),
        (
            "bad.toml",
            b"[task]\nuse = Tiny\n",
            "not valid TOML: Invalid value (at line 2, column 7)",
        ),
        (
            "twice.toml",
            b"seed = 1\nseed = 2\n",
            "not valid TOML: Cannot overwrite a value (at line 2, column 9)",
        ),
        ("latin.toml", b'# \xe9\n[task]\nuse = "a:b"', "not UTF-8 at byte 2"),
        ("empty.toml", b"", "task: is missing; write [task] use = "),
    ],
)
def test_file_that_is_no_config(name, content, message, tmp_path, command):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    lines = check_refused(command, tmp_path, path)
    assert lines[0].startswith(f"{path}: {message}")
    if name == "empty.toml":
        assert [line.split(":")[1] for line in lines] == [" task", " model", " train"]
    else:
        assert len(lines) == 1


def test_folder_is_no_config(tmp_path, command):
    (line,) = check_refused(command, tmp_path, tmp_path)
    assert line.startswith(f"{tmp_path}: is a folder; name a config file")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hidden_size"], "'hidden_size': not of the form section.key=value"),
        (["=3"], "'=3': not of the form section.key=value"),
        (["model..hidden_size=3"], "'model..hidden_size=3': not of the form"),
        (
            ["train.batch_size=1", "train.batch_size=2"],
            "'train.batch_size=2': train.batch_size is given twice; keep one",
        ),
        (["seed.low=3"], "'seed.low=3': seed is not a section"),
        (["model.cell=my cell"], "'model.cell=my cell': 'my cell' is not a TOML value"),
        (
            ["optimizer.clip.norm=1.0", "optimizer.clip={}"],
            "'optimizer.clip={}': would undo override optimizer.clip.norm; put it fir",
        ),
        (["seed.low="], "'seed.low=': there is no seed.low to remove; leave it out"),
        (
            ["train.num_epoch="],
            "'train.num_epoch=': there is no train.num_epoch to remove; did you mean "
            "num_epochs?",
        ),
        (["model.tied=True"], "'True' is not a TOML value; write true; for the string"),
        (
            ["train.eval_every=None"],
            "'None' is not a TOML value; to remove the key, write train.eval_every=; "
            "for the string, '\"None\"'",
        ),
        (["model.dropout=.5"], "'.5' is not a TOML value; write numbers as 1000, 0.5"),
        (["seed=1\nmodel.cell=2"], "holds more than one value"),
    ],
)
def test_malformed_override(overrides, message, config, command, tmp_path):
    config.write_text("seed = 1\n" + tiny.CONFIG)
    (line,) = check_refused(command, tmp_path, config, *overrides)
    assert line.startswith("override ") and message in line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.num_epochs=2"], "num_updates and num_epochs, and not both"),
        (["devices=3"], "devices = 3: a batch of 2 does not divide over them; change"),
        (["devices=64", "train.batch_size=64"], "devices = 64: there are "),
        (["model.inputs=one_hot"], '[model] inputs = "one_hot": the task feeds vector'),
        (["model.tied=true"], '[model] tied: inputs are "float", with no embedding'),
        (["model.embedding_size=3"], '[model] embedding_size: inputs are "float"'),
        (["model.cell=leaky_rnn", "model.leak=2.0"], "leak: 2.0 is not in (0, 1]"),
    ],
)
def test_parts_that_do_not_fit_together(overrides, message, config, command, tmp_path):
    (line,) = check_refused(command, tmp_path, config, *overrides)
    assert message in line


def test_no_config_is_asked_for_a_function(config, command, tmp_path):
    overrides = "model.cell=lstm_variant", "model.gate_activation=3"
    (line,) = check_refused(command, tmp_path, config, *overrides)
    assert line.endswith("gate_activation = 3: is not a string; put it in quotes")


def test_override_without_a_value_removes_a_key(config, command, tmp_path):
    loaded = load_config(config, ["train.num_updates=", "train.num_epochs=3"])
    assert loaded.sections.train.num_updates is None
    assert loaded.sections.train.num_epochs == 3
    values = load_config(
        config, ["optimizer=", "checkpoint.every=", "seed="]
    ).resolved()
    assert values["optimizer"]["learning_rate"] == 1e-3
    assert "every" not in values["checkpoint"] and values["seed"] == 0
    (line,) = check_refused(command, tmp_path, config, "model.hidden_size=")
    assert line == "override model.hidden_size: is missing; set it"
    for given, spare in [
        ("num_epochs=2", "num_updates"),
        ("num_updates=2", "num_epochs"),
    ]:
        config.write_text(tiny.CONFIG.replace("num_updates = 12", f"{spare} = 12"))
        (line,) = check_refused(command, tmp_path, config, f"train.{given}")
        assert line == (
            f"{config}: [train]: set one of num_updates and num_epochs, and not both; "
            f"an override train.{spare}= removes that one"
        )
        load_config(config, [f"train.{given}", f"train.{spare}="])


def test_length_of_training_has_to_be_known(config, command, tmp_path):
    text = tiny.CONFIG.replace("num_updates = 12\n", "")
    config.write_text(text)
    (line,) = check_refused(command, tmp_path, config)
    assert line.endswith("num_updates and num_epochs, for how long to train")
    (line,) = check_refused(command, tmp_path, config, "train.num_epochs=2")
    assert line.startswith("[train] num_epochs = 2: the task's stream has no end")


def test_option_of_an_override_that_sets_a_section(config, command, tmp_path):
    (line,) = check_refused(command, tmp_path, config, "optimizer.clip={norm=-1.0}")
    assert line == "override optimizer.clip.norm = -1.0: use a number greater than 0.0"


def test_all_faults_are_told_at_once(config, command, tmp_path):
    wrong_values = (
        "model.hidden_size=0",
        "train.batch_size=0",
        "seed=x",
        "loging.every=1",
    )
    assert len(check_refused(command, tmp_path, config, *wrong_values)) == 4
    wrong_names = (
        "task.scale=0",
        "model.cell=lstn",
        "optimizer.b1=2",
        "estimator.name=a",
        "model.initializer=b",
        "train.num_epochs=1",
    )
    assert len(check_refused(command, tmp_path, config, *wrong_names)) == 6


@pytest.mark.parametrize(
    ("text", "cause", "reason"),
    [
        ("\nvalue = undefined\n", NameError, "2: NameError: name 'undefined' is not"),
        (
            "import no_such_package\n",
            ModuleNotFoundError,
            "1: ModuleNotFoundError: No module named 'no_such_package'; mend it",
        ),
        ("def f(:\n", SyntaxError, "1: SyntaxError: invalid syntax; mend it"),
        ("import json\njson.loads('[')", ValueError, "2: JSONDecodeError: Expecting"),
        ("import sys\n\nsys.exit(3)\n", SystemExit, "3: SystemExit: 3; mend it"),
        (
            "def __getattr__(name):\n    raise RuntimeError(name)\n",
            RuntimeError,
            "2: RuntimeError: Mine; mend it",
        ),
    ],
)
def test_error_inside_a_module_is_placed(
    text, cause, reason, config, tmp_path, monkeypatch
):
    monkeypatch.delitem(sys.modules, "own_broken", raising=False)
    (tmp_path / "own_broken.py").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(config, ["task.use=own_broken:Mine"])
    assert isinstance(caught.value.__cause__, cause)
    (line,) = caught.value.lines
    assert line.startswith(
        'override task.use = "own_broken:Mine": the module cannot be imported: '
        f"{tmp_path / 'own_broken.py'}:{reason}"
    )
    assert line.endswith("and see more by `python -c 'import own_broken'`")


def test_task_and_cells_of_ones_own(config, tmp_path):
    (tmp_path / "own_parts.py").write_text(
        "import functools\n"
        "from jaxlstm.cells import make_lstm\n"
        "from tests.lab.tiny import Tiny\n"
        "class Mine(Tiny):\n    depth: int = 2\n"
        "finished = make_lstm()\n"
        "partial = functools.partial(make_lstm, forget_bias=3.0)\n"
    )
    rest = {"bias": True, "chrono": None, "projection_size": None}
    partial = {"forget_bias": 3.0, "initializer": "uniform_08", **rest}
    for cell, options in (
        ("finished", {}),
        ("partial", partial),
    ):
        loaded = load_config(
            config,
            [
                "task.use=own_parts:Mine",
                f"model.cell=own_parts:{cell}",
                "model.initializer=uniform_08",
            ],
        )
        assert loaded.resolved()["task"]["depth"] == 2
        assert loaded.cell_options == options
    with pytest.raises(UserError, match="forget_bias: unknown key"):
        load_config(config, ["model.cell=own_parts:finished", "model.forget_bias=1.0"])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.cell=gru", "estimator.remat=sqrt", "optimizer.name=rmsprop"),
        ("optimizer.clip.norm=1", "optimizer.schedule={name='cosine',warmup=2}"),
        ("devices=2", "seed=7", "task.scale=2", "model.forget_bias=0"),
    ],
)
def test_resolved_config_loads_as_itself(overrides, config, tmp_path):
    loaded = load_config(config, overrides)
    again = tmp_path / "resolved.toml"
    again.write_text(loaded.to_toml())
    reloaded = load_config(again)
    assert reloaded.resolved() == loaded.resolved()
    assert reloaded.task == loaded.task
    assert reloaded.to_toml() == loaded.to_toml()


def test_overrides_are_typed_as_in_the_file(config):
    loaded = load_config(
        config,
        [
            "model.hidden_size=1_0",
            "model.cell=gru",
            "model.initializer='uniform_08'",
            "model.tied=false",
            "optimizer.learning_rate=3e-4",
            "optimizer.clip={norm = 2.5}",
            "seed=0x10",
            "task.scale=2",
        ],
    )
    values = loaded.resolved()
    assert values["model"]["hidden_size"] == 10
    assert values["model"]["cell"] == "gru"
    assert values["model"]["initializer"] == "uniform_08"
    assert values["optimizer"]["learning_rate"] == 3e-4
    assert values["optimizer"]["clip"] == {"norm": 2.5}
    assert values["seed"] == 16
    assert loaded.task.model_dump()["scale"] == 2.0


def test_defaults_are_filled_in(config):
    values = load_config(config).resolved()
    shadow = {"shadow": [], "shadow_segments": 8}
    penalties = {"activation": 0.0, "temporal_activation": 0.0}
    own = {"name": "bptt", "remat": "none", **penalties}
    assert values["estimator"] == {**own, **shadow}
    assert values["model"]["forget_bias"] == 1.0
    assert values["optimizer"]["b2"] == 0.999
    assert values["task"] == {"use": "tests.lab.tiny:Tiny", "scale": 1.0}


def test_schema_names_every_section(config, command):
    general = json.loads(command("show", "--schema").out)
    assert set(general["required"]) == {"task", "model", "train"}
    assert set(general["properties"]) == {
        *("seed", "devices", "task", "model", "estimator", "optimizer", "train"),
        *("checkpoint", "logging", "compare"),
    }
    for definition in general["$defs"].values():
        assert definition["type"] == "object"
    with_task = json.loads(command("show", config, "--schema").out)
    section = with_task["$defs"]["TaskSection"]
    assert {"use", "scale", "num_segments"} <= set(section["properties"])
    assert section["additionalProperties"] is False


def test_a_key_of_section_and_cell_is_listed_once(config):
    with pytest.raises(UserError, match=r"\.zzz: unknown key; use one of ") as caught:
        load_config(config, ["model.zzz=1", "model.cell=gru"])
    (line,) = caught.value.lines
    keys = line.partition("use one of ")[2].split(", ")
    assert "initializer" in keys and len(keys) == len(set(keys))
