"""Trackers: what they are given, that none of them stops a run, and TensorBoard's files."""

import json
import sys
import threading
import warnings

import pytest

from common import config, consent
from common.errors import RequestError
from common.tracking import Trackers, check, names, trackers
from tests.common.recorded_trackers import Library
from tests.common.synthetic_run import make_run

PLAN = {"update": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run of three updates with two pictures."""
    run = make_run(
        tmp_path_factory.mktemp("tracked") / "a run", updates=3, done=3, evaluated=(0, 3)
    )
    run.report.write_text("<html>report</html>")
    return run


@pytest.fixture
def run(made):
    import shutil

    yield made
    shutil.rmtree(made.path / "track", ignore_errors=True)


def settings(*to, **changes):
    return config.load("emoji", {"track.to": list(to), "run.updates": 3, **changes})


def replay(run, how, *, update=0, error=None):
    """The events of a run, or of its part after an update, as the trainer sends them."""
    sent = Trackers().follow(run, how)
    if error is not None:
        sent.started({"update": update})
        sent.close_on_error(type(error), error, None)
        return
    with sent:
        sent.started({"update": update})
        base, last = run.evaluations()
        if not update:
            sent.evaluated(base)
        for row in run.metrics()[update:]:
            sent.updated(row)
        sent.evaluated(last)
        sent.finished(run)


class Recorded:
    """A tracker that keeps what it gets; `broken`: the method that fails."""

    def __init__(self, how, broken=""):
        self.how, self.broken, self.got = how, broken, []
        self._call("open", how)

    def _call(self, name, *words, **keywords):
        self.got.append((name, *words, *keywords.values()))
        if name == self.broken:
            raise SystemExit("no\nway")

    def numbers(self, values, update):
        self._call("numbers", values, update)

    def picture(self, name, file, update):
        self._call("picture", name, file, update)

    def result(self, rows, report):
        self._call("result", rows, report)

    def close(self, *, failed):
        self._call("close", failed)


@pytest.fixture
def recorded(monkeypatch):
    """Puts a recorded tracker in the place of TensorBoard; gives all that were opened."""
    opened = []

    def use(broken=""):
        def make(how):
            tracker = Recorded.__new__(Recorded)
            opened.append(tracker)
            tracker.__init__(how, broken)
            return tracker

        monkeypatch.setitem(trackers.OPEN, "tensorboard", make)
        return opened

    return use


def test_a_tracker_gets_settings_numbers_pictures_and_the_result(run, recorded):
    (opened) = recorded()
    how = settings("tensorboard", **{"track.project": "cats", "optimizer.learning_rate": 1e-3})
    replay(run, how)
    (tracker,) = opened
    assert (tracker.how.project, tracker.how.name, tracker.how.update) == ("cats", "a run", 0)
    assert tracker.how.config["optimizer"]["learning_rate"] == 1e-3
    assert tracker.how.folder == run.path / "track" / "tensorboard"
    kinds = [call[0] for call in tracker.got]
    assert kinds == [
        *("open", "numbers", "picture", "numbers", "numbers", "numbers"),
        *("numbers", "picture", "result", "close"),
    ]
    _, first, update = tracker.got[3]
    row = run.metrics()[0]
    assert update == 1
    assert first["reward/mean"] == row["reward/mean"]
    assert first["update/seconds"] == row["seconds"]
    assert all("/" in name for name in first)
    _, last, update = tracker.got[6]
    assert (update, last["evaluation/diversity"]) == (3, run.evaluations()[-1]["diversity"])
    _, name, file, _ = tracker.got[7]
    assert (name, file) == ("evaluation/pictures", run.path / "samples" / "000003.png")
    _, rows, report = tracker.got[8]
    base, tuned = (row["reward"] for row in run.evaluations())
    assert rows["reward"] == {"base": base, "tuned": tuned, "change": tuned - base}
    assert report == run.report
    assert tracker.got[9] == ("close", False)


def test_a_resumed_run_has_the_same_identity_and_a_failed_one_says_so(run, recorded):
    opened = recorded()
    replay(run, settings("tensorboard"))
    replay(run, settings("tensorboard", **{"track.name": "night"}), update=2)
    replay(run, settings("tensorboard"), update=3, error=RuntimeError("full"))
    first, second, third = opened
    assert first.how.identity == second.how.identity == third.how.identity
    assert (second.how.update, second.how.name) == (2, "night")
    assert [third.got[-1], second.got[-1]] == [("close", True), ("close", False)]


def test_pictures_stay_here_where_the_user_says_so(run, recorded):
    (opened) = recorded()
    replay(run, settings("tensorboard", **{"track.pictures": False}))
    assert "picture" not in [call[0] for call in opened[0].got]


@pytest.mark.parametrize("broken", ["open", "numbers", "picture", "result", "close"])
def test_a_tracker_that_fails_warns_once_and_stops_nothing(run, recorded, broken):
    opened = recorded(broken)
    with pytest.warns(UserWarning, match="tracker") as warned:
        replay(run, settings("tensorboard"))
    assert [str(each.message) for each in warned] == [
        "tracker tensorboard: no way; the run goes on without it"
    ]
    assert opened[0].got[-1][0] == broken


def test_a_tracker_that_hangs_is_left_behind(run, recorded, monkeypatch):
    recorded()
    waited = threading.Event()
    monkeypatch.setattr(Recorded, "close", lambda self, failed: waited.wait(30))
    monkeypatch.setattr(trackers, "PATIENCE", 0.05)
    with pytest.warns(UserWarning, match="not done after 0 s; what it has not sent may be lost"):
        replay(run, settings("tensorboard"))
    waited.set()


def test_without_trackers_nothing_is_imported_or_written(run):
    replay(run, settings())
    assert not (run.path / "track").exists()
    assert not [thread for thread in threading.enumerate() if "drift-track" in thread.name]


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: folder.joinpath("identity.json").write_text('{"id": "../../x"}'),
        lambda folder: folder.joinpath("identity.json").symlink_to("/dev/zero"),
    ],
)
def test_a_damaged_identity_is_said_and_stops_nothing(run, recorded, harm):
    recorded()
    (run.path / "track").mkdir()
    harm(run.path / "track")
    with pytest.warns(UserWarning, match="nothing is tracked: .*identity.json is damaged"):
        replay(run, settings("tensorboard"))


def test_a_link_out_of_the_run_is_not_written_through(run, tmp_path):
    (run.path / "track").mkdir()
    (run.path / "track" / "tensorboard").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="is a link that leads out of"):
        replay(run, settings("tensorboard"))
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none_are_left_out():
    record = {"update": 1, "seconds": float("nan"), "reward/mean": 1, "prompts": ["a"], "on": True}
    assert names.of_update(record) == {"reward/mean": 1.0}
    assert names.comparison([record]) == {}


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"track.to": ["tensorbord"]}, "track.to"),
        ({"track.to": ["wandb", "wandb"]}, "'wandb' is named twice"),
        ({"track.project": "someone/else"}, "is no plain name"),
    ],
)
def test_wrong_settings_are_refused(changes, says):
    with pytest.raises(RequestError, match=says):
        config.load("emoji", changes)


def test_a_library_that_is_missing_is_refused_before_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"'swanlab', which is not installed: pip install"):
        check(settings("swanlab").track)


def test_one_program_needs_no_list_and_a_project_has_a_name():
    assert config.load("emoji", ["track.to=tensorboard"]).track.to == ("tensorboard",)
    with pytest.raises(RequestError, match=r"track\.project is empty"):
        check(settings("tensorboard", **{"track.project": " "}).track)


def installed(monkeypatch, *libraries):
    for name in libraries:
        library = Library(name)
        monkeypatch.setitem(sys.modules, name, library)
        library.__spec__ = type("Spec", (), {"origin": "here"})()
    return [sys.modules[name] for name in libraries]


def test_a_file_of_others_sends_nothing_without_consent(monkeypatch, tmp_path):
    installed(monkeypatch, "wandb")
    place = tmp_path / "recipe.toml"
    how = settings("wandb").track
    with consent.required_for(place, [], trust=False), pytest.raises(RequestError) as refused:
        check(how)
    assert "recipe.toml would give its metrics, settings and pictures to wandb" in str(
        refused.value
    )
    assert "--trust" in str(refused.value)
    with consent.required_for(place, ['track.to=["wandb"]'], trust=False):
        check(how)
    with consent.required_for(place, [], trust=True):
        check(how)
    with consent.required_for(place, [], trust=False):
        check(settings("tensorboard").track)


def test_a_stored_run_of_others_sends_nothing(drift_run, monkeypatch):
    installed(monkeypatch, "wandb")
    run = make_run(drift_run, updates=9, done=0, evaluated=(), overrides=('track.to=["wandb"]',))
    from click.testing import CliRunner

    from common.cli import drift

    result = CliRunner().invoke(drift, ["run", "--resume", "--out", str(run.path)])
    assert result.exit_code == 2
    assert "would give its metrics, settings and pictures to wandb" in result.stderr
    assert not (run.path / "track").exists()


@pytest.fixture
def drift_run(tmp_path):
    return tmp_path / "run"


def test_offline_is_refused_where_the_environment_sends(monkeypatch):
    installed(monkeypatch, "trackio")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    with pytest.raises(RequestError, match=r"track.offline: TRACKIO_SPACE_ID makes trackio send"):
        check(settings("trackio", **{"track.offline": True}).track)
    check(settings("trackio").track)


# --- the libraries ----------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [False, True])
def test_each_library_is_called_as_it_wants(run, monkeypatch, offline):
    wandb, trackio, swanlab = installed(monkeypatch, "wandb", "trackio", "swanlab")
    how = settings("wandb", "trackio", "swanlab", **{"track.offline": offline})
    replay(run, how)
    (identity,) = json.loads((run.path / "track" / "identity.json").read_text()).values()
    mode = "offline" if offline else None
    ((_, opened),) = wandb.named("init")
    assert (opened["id"], opened["resume"], opened["mode"]) == (identity, "allow", mode)
    assert opened["dir"] == str(run.path / "track")
    assert bool(wandb.named("login")) is not offline
    logged = [words[0] for words, _ in wandb.named("log")]
    assert [row["update"] for row in logged if "reward/mean" in row] == [1, 2, 3]
    assert wandb.summary["result/reward/tuned"] == run.evaluations()[-1]["reward"]
    assert wandb.named("finish") == [((), {"exit_code": 0})]
    ((_, opened),) = trackio.named("init")
    assert (opened["name"], opened["resume"]) == (f"a run-{identity[:4]}", "allow")
    ((_, opened),) = swanlab.named("init")
    assert (opened["id"], opened["mode"]) == (identity, mode)
    for library in (trackio, swanlab):
        rows = [(row, keywords) for (row,), keywords in library.named("log")]
        assert [how["step"] for row, how in rows if "reward/mean" in row] == [1, 2, 3]
        assert rows[-1][0].keys() == {"result/table", "result/report"}
        assert len(library.named("Image")) == 2


def test_a_missing_login_is_said_and_asked_for_by_nobody(run, monkeypatch):
    (wandb,) = installed(monkeypatch, "wandb")
    wandb.login = lambda prompt: False
    with pytest.warns(UserWarning, match="tracker wandb: no login: `wandb login` makes one"):
        replay(run, settings("wandb"))
    assert not wandb.named("init")


def test_tensorboard_shows_curves_pictures_and_text_and_goes_on_after_a_resume(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    replay(run, settings("tensorboard"))
    replay(run, settings("tensorboard"), update=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = EventAccumulator(str(run.path / "track" / "tensorboard"))
        events.Reload()
    curve = events.Scalars("reward/mean")
    assert [point.step for point in curve] == [1, 2, 3]  # the second start wrote 3 again
    assert [point.value for point in curve] == pytest.approx(
        [row["reward/mean"] for row in run.metrics()]
    )
    picture = events.Images("evaluation/pictures")[-1]
    assert picture.encoded_image_string == (run.path / "samples" / "000003.png").read_bytes()
    texts = {
        tag: tensor_util.make_ndarray(events.Tensors(tag)[-1].tensor_proto).item().decode()
        for tag in ("run/configuration", "run/result")
    }
    assert "updates = 3" in texts["run/configuration"]
    assert "| reward | " in texts["run/result"]
