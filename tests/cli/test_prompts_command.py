"""`drift prompts` lists the sets that ship and prints what a run would be asked for."""

import json

from common import prompts
from common.config import PromptsConfig


def test_every_set_is_listed_with_its_splits(drift):
    listed = json.loads(drift("prompts", "--json").output)["sets"]
    assert [row["name"] for row in listed] == list(prompts.NAMED)
    for row in listed:
        loaded = prompts.load(PromptsConfig(source=row["name"]))
        assert row["prompts"] == len(loaded)
        assert row["train"] + row["validation"] + row["test"] == len(loaded)
        assert all(list(p.metadata) == row["metadata"] for p in loaded)
    text = drift("prompts").output
    assert all(row["description"] in text for row in listed)


def test_a_set_is_printed_as_a_run_gets_it(drift):
    words = ("prompts", "counting", "--split", "test", "--limit", "3")
    expected = prompts.load(PromptsConfig(source="counting", split="test", limit=3))
    printed = json.loads(drift(*words, "--json").output)
    assert printed["prompts"] == [
        {"id": p.id, "split": "test", "prompt": p.text, "metadata": dict(p.metadata)}
        for p in expected
    ]
    lines = drift(*words).output.splitlines()
    assert len(lines) == 4
    for line, p in zip(lines[1:], expected, strict=True):
        assert line.split()[0] == str(p.id)
        assert p.text in line
        assert f"count={p.metadata['count']}" in line


def test_a_file_without_metadata_has_no_such_column(drift, tmp_path):
    (tmp_path / "mine.txt").write_text("a red cat\n")
    assert drift("prompts", "mine.txt").output.splitlines()[0].split() == ["id", "split", "prompt"]


def test_what_is_not_there_is_reported_in_one_line(refused):
    assert "did you mean 'animals'?" in refused(2, "prompts", "animls")
    assert "none is named" in refused(2, "prompts", "--limit", "3")
    assert "cannot read prompts from no.txt" in refused(2, "prompts", "no.txt")


def test_control_characters_of_a_prompt_are_printed_as_letters(drift, tmp_path):
    (tmp_path / "mine.txt").write_text("a \x1b]0;title\x07 cat\nform\ffeed\n")
    text = drift("prompts", "mine.txt").output
    assert "a \\x1b]0;title\\x07 cat" in text
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.split("\n")) == 4
