"""A value as TOML on one line is read back as the same value."""

import tomllib

import pytest

from common.config.toml import one_line

VALUES = [
    True,
    -3,
    1e-08,
    "",
    'a "quoted" \\ path',
    "tab\t, bell \x07, delete \x7f, \u2028 and \U0001f600",
    [],
    ["a", 'b"'],
    [[1, 2], [0.5]],
    {},
    {"embedded": 10.0, "my_rewards:score": 1.0, "with space": {"path": "x"}},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_it_is_read_back_as_it_was(value):
    line = one_line(value)
    assert line.isprintable()
    assert tomllib.loads(f"value = {line}")["value"] == value


def test_plain_names_have_no_quotes():
    assert one_line({"embedded": 10.0, "a:b": ("x", True)}) == (
        '{ embedded = 10.0, "a:b" = ["x", true] }'
    )
