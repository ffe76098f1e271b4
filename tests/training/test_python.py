"""docs/python.md followed to the letter, and what `import drift` does when it is interrupted."""

import contextlib
import inspect
import io
import os
import re
import signal
from pathlib import Path

import pytest

import drift
from common import console, report

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
README = PAGE.parents[1] / "README.md"
SMALL = {
    "prompts.names": ["rose", "owl"],
    "rollout.prompts": 2,
    "rollout.group_size": 4,
    "rollout.steps": 3,
    "rollout.window": 0,
    "evaluate.images": 2,
    "evaluate.steps": 2,
    "checkpoint.every": 1,
}


def small(**changes):
    return SMALL | {"run.updates": 2} | changes


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(report, "build", lambda run: run.report)


def interrupted(monkeypatch, times):
    """Ctrl-C after the first update, that many times."""
    shown = console.RunDisplay.updated

    def interrupt(self, record):
        shown(self, record)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(console.RunDisplay, "updated", interrupt)


@pytest.fixture
def quick(monkeypatch):
    """Training and evaluation with smaller settings, so that a page takes seconds."""
    train, evaluate = drift.train, drift.evaluate
    few = {"prompts": 2, "images": 2, "steps": 2}
    monkeypatch.setattr(
        drift, "train", lambda *a, set, **more: train(*a, set={**SMALL, **set}, **more)
    )
    monkeypatch.setattr(drift, "evaluate", lambda *a, **more: evaluate(*a, **more, **few))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_block_of_the_readme_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(
        compile(block.replace('"run.updates": 24', '"run.updates": 2'), str(README), "exec"), names
    )
    assert [row["update"] for row in names["run"].metrics] == [1, 2]
    assert names["plain"].config.drift.shaping.weight == 0


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_every_block_of_the_page_runs():
    """As it stands, but with fewer updates."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    names = {}
    printed = io.StringIO()
    for block in blocks:
        text = block.replace('"run.updates": 24', '"run.updates": 2')
        text = text.replace('"run.updates": 30', '"run.updates": 3')
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(PAGE), "exec"), names)
    run = names["run"]
    assert names["after"].array.shape == (2, 2, 32, 32, 3)
    assert Path("after.png").is_file()
    assert {Path(row["run"]) for row in names["rows"]} == {run.path, names["other"].path}
    assert names["comparison"].page.is_file()
    assert names["comparison"].gains
    assert [row["update"] for row in run.metrics] == [1, 2, 3]
    assert run.config.reward.terms == {"embedded": 10.0}
    (said,) = re.findall(r"print\(error\) +# (.*)", PAGE.read_text(encoding="utf-8"))
    assert said in printed.getvalue().splitlines()
    red = names["red"]
    assert red.config.reward.terms == {"embedded": 10.0, "redness": 5.0}
    assert all("reward/term/redness" in row for row in red.metrics)


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_finishes_the_update_and_returns_a_run_that_goes_on(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupted(patch, times=1)
        run = drift.train(
            set=small(**{"run.updates": 9, "checkpoint.every": 9}), backend="cpu", out="run"
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert (run.update, run.finished, list(run.checkpoints)) == (1, False, [1])
    stopped, how = capsys.readouterr().out.splitlines()[-2:]
    assert stopped == "stopped after update 1 of 9; go on with"
    assert how == "  drift.train(resume=True, out='run')"
    again = drift.train(resume=True, out=run, set={"run.updates": 2}, progress=False)
    assert again.finished
    assert [row["update"] for row in drift.open("run").metrics] == [1, 2]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_report")
def test_a_second_ctrl_c_ends_it_at_once(monkeypatch):
    interrupted(monkeypatch, times=2)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        drift.train(set=small(), backend="cpu", out="run")
    assert signal.getsignal(signal.SIGINT) is before
    assert drift.train(resume=True, out="run", progress=False).finished  # and nothing is locked


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: drift.train("emojo"), "no recipe 'emojo'; did you mean 'emoji'?"),
        (lambda: drift.train(set={"updates": 3}), "set 'updates': write the key as 'run.updates'"),
        (lambda: drift.train(set={"run.updates": "3"}), "run.updates = '3'"),
        (lambda: drift.train(resume=True), "resume=True needs out"),
        (lambda: drift.train(backend="tpu"), "no backend 'tpu'"),
        (lambda: drift.open("nothing"), "no run directory nothing"),
        (lambda: drift.sample("nothing", "rose", count=0), "count = 0"),
        (lambda: drift.sample("nothing", []), "prompts = []"),
        (lambda: drift.evaluate("nothing", images=1), "images = 1"),
        (lambda: drift.evaluate("nothing", splits=["trian"]), "did you mean 'train'?"),
        (lambda: drift.evaluate("nothing", scales=[float("nan")]), "scales.0 = nan"),
        (lambda: drift.compare("nothing", curve="paht"), "did you mean 'path'?"),
        (lambda: drift.compare([]), "nothing to compare"),
        (lambda: drift.register_reward("embedded", len), "'embedded' is registered twice"),
        (lambda: drift.register_reward("clipscore", len), "'clipscore' is registered twice"),
        (lambda: drift.register_reward("a:b", len), "only for module:function"),
        (lambda: drift.register_reward("five", 5), "needs a function, not int"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(call, says, tmp_path):
    with pytest.raises(drift.RequestError, match=re.escape(says)) as raised:
        call()
    assert isinstance(raised.value, drift.Error)
    assert len(str(raised.value).splitlines()) == 1
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


def test_a_registered_reward_is_replaced_by_the_next_of_its_name():
    from common.rewards import create

    drift.register_reward("ones", lambda images, prompts, metadata: [1.0] * len(images))
    drift.register_reward("ones", lambda images, prompts, metadata: [2.0] * len(images))
    assert create("ones", drift.load_backend("cpu"))([0, 0], [], []) == [2.0, 2.0]


def test_a_configuration_is_a_recipe_too():
    config = drift.load_config("emoji", {"run.seed": 3})
    assert drift.load_config(config, {"run.updates": 7}).run.seed == 3
    assert drift.load_config(config, {"run.updates": 7}).run.updates == 7


@pytest.mark.parametrize("name", ["evaluate", "sample", "compare"])
def test_the_defaults_are_the_commands(name):
    """Of the options, of the Python function and of the command line, which states its own."""
    from common import cli
    from common.workflows import options

    words = {"evaluate": ("eval", []), "sample": ("sample", ["--prompt", "x"])}
    command, more = words.get(name, (name, []))
    given = cli.drift.commands[command].make_context(command, ["RUN", *more]).params
    renamed = {"curve": "reading"} | ({"prompt_noise": "strengths"} if name == "evaluate" else {})
    kind = getattr(options, f"{name.capitalize()}Options")
    python = inspect.signature(getattr(drift, name)).parameters
    for key, field in kind.model_fields.items():
        if (name, key) == ("sample", "prompts"):
            continue
        assert given[renamed.get(key, key)] == field.default, key
        assert python[key].default == field.default, key
