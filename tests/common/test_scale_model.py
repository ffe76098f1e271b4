"""The predicted time of an update on many processes follows from the units of work."""

import json

import pytest

from common import config as configuration
from common.learning.shares import number_of_lanes
from scripts import scale_model
from scripts.scale_model import Links, Parts

PARTS = Parts(rollout_batch=30.0, micro_batch=2.0, scoring_call=0.5, rest=1.0)
LINKS = Links(per_node=8, inside=100e9, between=10e9, copied=5e9)
TRAINED = 20_000_000


def units(recipe="sd35m-pickscore-grpo", lanes=64, changes=()):
    return scale_model.work(configuration.load(recipe, changes), TRAINED, lanes)


def test_one_process_computes_all_units_and_sends_nothing():
    work = units()
    assert work.images == 48 * 24
    assert work.rollout_batches == 48
    seconds = scale_model.predict(work, PARTS, LINKS, 1)
    assert seconds["sampling"] == 48 * 30.0
    assert seconds["training"] == sum(work.micro_batches) * 2.0
    assert {seconds[name] for name in seconds if name.startswith(("sending", "adding"))} == {0.0}


@pytest.mark.parametrize("size", [2, 3, 8, 48, 64])
@pytest.mark.parametrize("recipe", scale_model.RECIPES)
def test_no_process_has_less_than_its_share(recipe, size):
    work = units(recipe)
    alone, shared = (scale_model.predict(work, PARTS, LINKS, n) for n in (1, size))
    for name in ("sampling", "scoring", "training"):
        assert alone[name] / size <= shared[name] <= alone[name]
    assert 0 < scale_model.efficiency(work, PARTS, LINKS, size) < 1


def test_more_processes_than_batches_are_bound_by_sampling():
    work = units()
    assert scale_model.predict(work, PARTS, LINKS, 64)["sampling"] == 30.0
    assert scale_model.bound(work, PARTS, LINKS, 64) == "sampling"
    slow = Links(per_node=8, inside=100e9, between=1e6, copied=5e9)
    assert scale_model.bound(work, PARTS, slow, 64) == "sending images"
    assert scale_model.bound(work, PARTS, slow, 8) != "sending images"


def test_more_processes_than_lanes_are_refused():
    assert number_of_lanes(configuration.load("sd35m-pickscore-grpo")) == 8
    with pytest.raises(ValueError, match="9 processes, but 8 lanes"):
        scale_model.predict(units(lanes=8), PARTS, LINKS, 9)
    rows = scale_model.table("flux-dev-pickscore", [8, 64, 512], PARTS, LINKS, TRAINED).splitlines()
    assert [row.split(" | ")[1] for row in rows[2:]] == ["8", "64", "-"]
    assert "refused: at most 64 share an update" in rows[-1]


def test_parts_come_from_a_document_and_a_plot_shows_them(tmp_path, capsys):
    figures = {"recipe": "sd35m-pickscore-grpo", "settings": ["rollout.group_size=4"]}
    figures |= {"trained_parameters": TRAINED, "update_s": {"median": 100.0}}
    figures |= {"rollout_s": {"median": 40.0}, "scored_s": {"median": 8.0}}
    figures |= {"trained_s": {"median": 50.0}}
    document = tmp_path / "gpu.json"
    document.write_text(json.dumps({"rows": {"sd3": {"status": "done", "figures": figures}}}))
    parts, trained = scale_model.parts_of_document(document, "sd35m-pickscore-grpo")
    work = units(changes=["rollout.group_size=4"])
    assert trained == TRAINED
    assert parts.rollout_batch == pytest.approx(40.0 / work.rollout_batches)
    assert parts.rest == pytest.approx(2.0)
    seconds = scale_model.predict(work, parts, LINKS, 1)
    assert sum(seconds.values()) == pytest.approx(100.0)
    links = ["--inside", "100", "--between", "10", "--copied", "5"]
    plot = tmp_path / "plot.svg"
    words = ["--parts", str(document), "--plot", str(plot), "--processes", "1,8,512", *links]
    assert scale_model.main(words) == 0
    assert "| 8 | 8 |" in capsys.readouterr().out
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing is assumed: give --rollout-batch, --micro-batch, --scoring-call, or a docum"),
        (("--plot", "x.svg"), "--plot draws measured parts: give their document with --parts"),
        (("--parts", "nowhere.json"), "No such file"),
        (
            ("--rollout-batch", "1", "--micro-batch", "1", "--scoring-call", "1", "--trained", "9"),
            "--inside: give the GB a second that were measured",
        ),
        (
            ("--rollout-batch=-1", "--micro-batch=1", "--scoring-call=1", "--trained=9"),
            "seconds are valid from 0 on",
        ),
    ],
)
def test_nothing_is_invented(words, said, capsys):
    assert scale_model.main(list(words)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_model_of_unknown_latents_is_refused():
    model = configuration.load("sd35m-pickscore").model.model_copy(update={"family": "mine:Policy"})
    config = configuration.load("sd35m-pickscore").model_copy(update={"model": model})
    with pytest.raises(ValueError, match=r"the latents of model\.family"):
        scale_model.work(config, TRAINED)


def test_another_document_is_refused_in_one_line(tmp_path, capsys):
    for content in ("{}", "[]", '{"rows": {"a": 3}}', '{"rows": {"a": {"figures": {}}}}'):
        (tmp_path / "x.json").write_text(content)
        assert scale_model.main(["--parts", str(tmp_path / "x.json")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
