"""The guard of rewards: every way in which a reward fails is one line that says what and where."""

import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from common.config import RewardConfig
from common.rewards import (
    Features,
    RewardError,
    RewardNameError,
    RewardSuite,
    create,
    guard,
)
from common.rewards.registry import NamedReward
from tests.common.scored_images import METADATA, PROMPTS, FakeBackend, call, noisy


def failing(*_):
    raise KeyError("weights")


def leaving(*_):
    sys.exit(3)


async def coroutine(*_):
    return [1.0, 2.0, 3.0]


class Unreadable:
    def __array__(self, *_, **__):
        raise TypeError("on a GPU")


@pytest.mark.parametrize("on_error", ["fail", "drop"])
@pytest.mark.parametrize(
    ("function", "says"),
    [
        (failing, r"reward 'mine' raised KeyError: 'weights'"),
        (leaving, r"raised SystemExit: 3"),
        (lambda *a: [1.0, 2.0], r"returned shape \[2\] for 3 images: expected \[3\]"),
        (lambda *a: np.zeros((3, 1)), r"returned shape \[3, 1\] for 3 images"),
        (lambda *a: 1.0, r"returned shape \[\] for 3 images"),
        (lambda *a: ["1.5", "2", "3"], r"not numbers"),
        (lambda *a: [1.0, None, 2.0], r"type object, not numbers"),
        (lambda *a: None, r"type object, not numbers"),
        (lambda *a: np.ones(3) * 1j, r"type complex128, not numbers"),
        (lambda *a: [[1.0], [2.0, 3.0], []], r"returned a list of \(list, list, list\)"),
        (lambda *a: (np.ones(3), {"info": 1}), r"returned a tuple of \(ndarray, dict\): return"),
        (lambda *a: ([1.0, 2.0, 3.0], [{}, {}, {}]), r"returned a tuple of \(list, list\): return"),
        (lambda *a: {"scores": [1.0, 2.0, 3.0]}, r"returned a dict: return the N scores alone"),
        (lambda *a: (float(i) for i in range(3)), r"returned a generator: return"),
        (coroutine, r"returned a coroutine: make it a function that is not async"),
        (lambda *a: Unreadable(), r"returned an Unreadable that is no array: TypeError: on a GPU"),
        (lambda *a: np.ma.array([1.0, 2.0, 3.0j], mask=[0, 1, 0]), r"type complex128, not num"),
    ],
)
def test_a_broken_reward_is_an_error_in_any_case(function, says, on_error):
    with pytest.raises(RewardError, match=says):
        call(function, on_error=on_error)


@pytest.mark.parametrize(("module", "name"), [("torch", "bfloat16"), ("mlx.core", "bfloat16")])
def test_values_in_bfloat16_are_refused_by_name(module, name):
    library = pytest.importorskip(module)
    ones = library.ones(3, dtype=getattr(library, name))
    with pytest.raises(RewardError, match=r"'mine' returned bfloat16 values.*: return float32"):
        call(lambda *a: ones)


@pytest.mark.parametrize("dtype", [float, int])
def test_a_masked_score_is_missing(dtype):
    masked = np.ma.array(np.array([1, 7, 3], dtype=dtype), mask=[False, True, False])
    with pytest.raises(RewardError, match=r"'mine' is nan for prompt 'owl', sample 5$"):
        call(lambda *a: masked)
    got = call(lambda *a: masked, on_error="drop")
    np.testing.assert_array_equal(got, [1.0, np.nan, 3.0])


def test_an_error_names_the_line_of_the_users_code(tmp_path, monkeypatch):
    (tmp_path / "own_helper.py").write_text("def look(key):\n    return {}[key]\n")
    (tmp_path / "own_reward.py").write_text(
        "import json\n"
        "from own_helper import look\n\n"
        "def deep(*_):\n    return look('weights')\n\n"
        "def library(*_):\n    x = 1\n    return json.loads('{')\n"
    )
    (tmp_path / "own_broken.py").write_text("x = 1\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, where in [("deep", "own_helper.py, line 2"), ("library", "own_reward.py, line 9")]:
        reward = create(f"own_reward:{name}", FakeBackend())
        with pytest.raises(RewardError, match=rf"raised \w+: .* \({where}\)$"):
            call(reward)
        config = RewardConfig(terms={reward.name: 1.0})
        suite = RewardSuite(config.terms, FakeBackend(), config)
        with pytest.raises(RewardError, match=rf"\({where}\)$"):
            suite.score(noisy(), PROMPTS, METADATA, str)
        features = Features(reward.name, FakeBackend(), {})
        with pytest.raises(RewardError, match=rf"features 'own_.* raised \w+: .* \({where}\)$"):
            features(noisy())
    with pytest.raises(RewardNameError, match=r"ZeroDivisionError: .* \(own_broken.py, line 2\)$"):
        create("own_broken:score", FakeBackend())


def test_an_error_of_a_shipped_reward_names_no_line():
    with pytest.raises(RewardError, match=r"'mine' raised [^(]*$"):
        call(create("jpeg_compressibility", FakeBackend()).function, images=noisy()[..., :2])


def test_the_cause_is_chained():
    with pytest.raises(RewardError) as caught:
        call(failing)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.__traceback__ is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_names_prompt_and_sample(bad):
    with pytest.raises(RewardError, match=f"'mine' is {bad} for prompt 'owl', sample 5$"):
        call(lambda *a: [1.0, bad, 2.0])
    with pytest.raises(RewardError, match="prompt 'rose', sample 4 and 2 more"):
        call(lambda *a: [bad] * 3)
    got = call(lambda *a: [1.0, bad, 2.0], on_error="drop")
    np.testing.assert_array_equal(got, [1.0, np.nan, 2.0])


@pytest.mark.parametrize(
    "values", [[1, 2, 3], (1.0, 2.0, 3.0), np.float16([1, 2, 3]), [True, False, True]]
)
def test_numbers_of_any_kind_become_float64(values):
    got = call(lambda *a: values)
    assert got.dtype == np.float64
    assert got.tolist() == [float(v) for v in values]


def test_a_reward_cannot_change_the_images():
    images = noisy()
    before = images.copy()

    def vandal(images, prompts, metadata):
        images[:] = 0
        return np.zeros(len(images))

    call(vandal, images=images)
    assert (images == before).all()


def test_a_reward_cannot_change_the_metadata_or_the_prompts():
    """One mapping belongs to all images of a prompt, and to all updates."""
    prompt = {"text": "OPEN", "include": [{"class": "cat", "count": 2}]}
    metadata, prompts = [prompt] * 3, ["rose"] * 3

    def changing(images, prompts, metadata):
        for about in metadata:
            assert about.pop("text") == "OPEN"
            about["include"][0]["count"] += 1
            assert about["include"][0]["count"] == 3
        prompts.clear()
        return [0.0] * len(metadata)

    for _ in range(2):
        score = {"timeout": 60.0, "on_error": "fail", "describe": str}
        guard.score(NamedReward("mine", changing), noisy(), prompts, metadata, **score)
    assert prompt == {"text": "OPEN", "include": [{"class": "cat", "count": 2}]}
    assert prompts == ["rose"] * 3


def test_a_hanging_reward_is_an_error_in_time_and_the_next_call_works():
    release, returned = threading.Event(), threading.Event()

    def hangs(*_):
        release.wait(600)
        returned.set()

    with pytest.raises(RewardError, match=r"'mine' took more than 0.1 s for 3 images"):
        call(hangs, timeout=0.1)
    assert not returned.is_set()
    assert call(lambda *a: [1, 2, 3]).tolist() == [1.0, 2.0, 3.0]
    release.set()


def test_the_process_ends_while_a_reward_hangs():
    program = """
        import threading
        import numpy as np
        from common.rewards import RewardError, score
        from common.rewards.registry import NamedReward
        hang = NamedReward("hang", lambda *a: threading.Event().wait())
        try:
            score(hang, np.zeros((1, 8, 8, 3), np.uint8), ["a"], [{}], timeout=0.1,
                  on_error="drop", describe=str)
        except RewardError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "'hang' took more than 0.1 s" in done.stdout


def test_calls_share_a_thread():
    seen = set()
    for _ in range(5):
        call(lambda *a: seen.add(threading.get_ident()) or [0, 0, 0])
    assert len(seen) == 1
    assert threading.get_ident() not in seen
