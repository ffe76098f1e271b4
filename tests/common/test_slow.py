"""Slow tests run when they are asked for, all of them over the shares of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow import picked, share

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "numbers"), [("none", (0, 1)), ("all", (1, 1)), ("2/4", (2, 4)), ("4/4", (4, 4))]
)
def test_a_share_is_two_numbers(text, numbers):
    assert share(text) == numbers


@pytest.mark.parametrize("text", ["", "some", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "0/1"])
def test_another_text_is_refused(text):
    with pytest.raises(pytest.UsageError, match=f"--slow {text}: valid are none, all, and K/N"):
        share(text)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_file_is_in_one_share(count):
    files = [f"test_{letter}.py" for letter in "hcafbged"]
    shares = [picked(files, k, count) for k in range(1, count + 1)]
    assert sum(map(len, shares)) == len(files)
    assert set.union(*shares) == set(files)
    assert {len(one) for one in shares} == {8 // count}
    assert picked(files, *share("none")) == set()
    assert picked(files, *share("all")) == set(files)


def test_pytest_leaves_them_out():
    words = ["--collect-only", "-p", "no:cacheprovider", "tests/training/test_hand_over.py"]

    def collected(*more):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *more],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    text = collected("--slow", "none")
    assert "test_hand_over[lora-cpu-mlx]" in text
    assert "[full" not in text
    assert "2/4 tests collected (2 deselected)" in text
    assert "4 tests collected" in collected()
