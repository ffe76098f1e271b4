"""Prompt sets: sources and their errors, the laws of batches, splits that never move."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from common import prompts
from common.config import PromptsConfig
from common.embedded.model import FOLDER
from common.prompts import Prompt, PromptError, PromptSet
from common.prompts.generated import GENERATED, article, plural


def load(source, *names):
    return prompts.load(PromptsConfig(source=str(source), names=names))


def make(count):
    return [Prompt(10 + i, f"prompt {i}") for i in range(count)]


# Sources


def test_emoji_prompts_are_the_names_that_have_images():
    names = json.loads((FOLDER / "names.json").read_text())["names"]
    loaded = load("emoji")
    assert len(loaded) == 849
    assert loaded[0] == Prompt(0, "admission tickets")
    assert all(names[p.id].replace("-", " ") == p.text for p in loaded)
    missing = {name for i, name in enumerate(names) if i not in {p.id for p in loaded}}
    assert missing == {"kiss", "red-triangle-pointed-up"}


def test_names_filter_keeps_ids_and_takes_the_order_given():
    loaded = load("emoji", "rose", "cat face")
    assert [p.text for p in loaded] == ["rose", "cat face"]
    everything = {p.text: p.id for p in load("emoji")}
    assert [p.id for p in loaded] == [everything["rose"], everything["cat face"]]


def test_text_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# pets\n a red cat \n\na blue dog\n#\n", encoding="utf-8")
    assert list(load(file)) == [Prompt(0, "a red cat"), Prompt(1, "a blue dog")]


def test_json_lines_carry_metadata(tmp_path):
    file = tmp_path / "prompts.jsonl"
    text = '# cats\n{"prompt": "two cats", "count": 2}\n\n{"prompt": "é"}\n'
    file.write_text(text, encoding="utf-8")
    loaded = load(file)
    assert [(p.id, p.text, p.metadata) for p in loaded] == [
        (0, "two cats", {"count": 2}),
        (1, "é", {}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("e.txt", b"# nothing\n\n", r"e\.txt has no prompts"),
        ("e.jsonl", b"\n", r"e\.jsonl has no prompts"),
        (
            "twice.txt",
            b"a\nb\na\n",
            r"twice\.txt, line 3: the prompt 'a' is there twice, first in line 1",
        ),
        ("bad.jsonl", b'{"prompt": "a"}\n{prompt}\n', r"bad\.jsonl, line 2: not valid JSON"),
        ("list.jsonl", b'["a"]\n', r"list\.jsonl, line 1: write an object"),
        ("none.jsonl", b'{"text": "a"}\n', r"none\.jsonl, line 1: write an object"),
        ("number.jsonl", b'{"prompt": 3}\n', r"number\.jsonl, line 1"),
        ("blank.jsonl", b'{"prompt": " "}\n', r"blank\.jsonl, line 1"),
        ("twice.jsonl", b'{"prompt": "a"}\n\n{"prompt": " a"}\n', r"line 3: .* first in line 1"),
        ("latin.txt", b"caf\xe9\n", r"latin\.txt is not UTF-8"),
        ("late.txt", b"a\r\nb\rcaf\xe9\n", r"late\.txt is not UTF-8 text: .* in line 3"),
        ("half.txt", b"a\n\xed\xa0\x80\n", r"half\.txt is not UTF-8 text: .* in line 2"),
        (
            "half.jsonl",
            b'{"prompt": "a"}\n{"prompt": "\\ud800"}\n',
            r"half\.jsonl, line 2: .*half of a surrogate pair",
        ),
        ("table.tsv", b"a\n", r"table\.tsv': no set of prompts, and no \.txt, \.jsonl or \.csv"),
        ("none.csv", b"text,n\na,1\n", r"none\.csv, line 1: .*column prompt; it has text, n"),
        ("same.csv", b"prompt,n,n\na,1,2\n", r"same\.csv, line 1: .* twice: 'n'"),
        ("noname.csv", b"prompt,\na,1\n", r"noname\.csv, line 1: .* has no name"),
        ("more.csv", b"prompt,n\na,1\nb, c,2\n", r"more\.csv, line 3: 3 values for 2 columns"),
        ("blank.csv", b'prompt,n\n"a\nb",1\n ,2\n', r"blank\.csv, line 4: .* is empty"),
        ("twice.csv", b'prompt\n"a\nb"\n"a\nb"\n', r"line 4: .* there twice, first in line 2"),
        ("open.csv", b'prompt\n"a\n', r"open\.csv, line 2: not valid CSV"),
        ("head.csv", b"prompt,n\n", r"head\.csv has no prompts"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PromptError, match=says) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mark.txt", "\ufeff# pets\r\nred cat\r\na\fb\rc\u2028d\n\ufeffe\x85f\n"),
        (
            "mark.jsonl",
            '\ufeff{"prompt": "red cat"}\r\n{"prompt": "a\\fb"}\n'
            '{"prompt": "c\u2028d"}\n\ufeff{"prompt": "e\x85f"}\n',
        ),
        ("mark.csv", '\ufeff"prompt"\r\nred cat\r\na\fb\n"c\u2028d"\n\ne\x85f\n'),
    ],
)
def test_a_prompt_keeps_all_characters_but_ends_of_lines_and_byte_order_marks(
    tmp_path, name, content
):
    (tmp_path / name).write_bytes(content.encode())
    assert [p.text for p in load(tmp_path / name)] == ["red cat", "a\fb", "c\u2028d", "e\x85f"]


def test_a_table_carries_metadata(tmp_path):
    (tmp_path / "e.csv").write_text(
        'count, prompt ,colour,ok,code\n2,"two cats, red",red,true,007\n-1.5e1, é ,,false,1e999\n'
    )
    assert [(p.id, p.text, dict(p.metadata)) for p in load(tmp_path / "e.csv")] == [
        (0, "two cats, red", {"count": 2, "colour": "red", "ok": True, "code": "007"}),
        (1, "é", {"count": -15.0, "colour": "", "ok": False, "code": "1e999"}),
    ]


def test_half_of_a_surrogate_pair_is_no_prompt():
    with pytest.raises(PromptError, match=r"here: the prompt 'a\\udc80' is no Unicode text"):
        PromptSet([Prompt(0, "a\udc80")], "here")


def test_other_errors(tmp_path):
    with pytest.raises(PromptError, match=r"cannot read prompts from .*no\.txt: No such file"):
        load(tmp_path / "no.txt")
    with pytest.raises(PromptError, match="no prompt 'strawbery' in emoji; did you mean 'strawb"):
        load("emoji", "strawbery")
    with pytest.raises(PromptError, match=r"no prompt 'qqqqqqqq' in emoji$"):
        load("emoji", "qqqqqqqq")
    with pytest.raises(PromptError, match="'rose' is there twice"):
        load("emoji", "rose", "rose")


def test_a_set_is_a_sequence():
    loaded = PromptSet(make(3), "here")
    assert len(loaded) == 3
    assert loaded[-1].id == 12
    assert [p.id for p in loaded[1:]] == [11, 12]


# Batches


@given(data=st.data(), n=st.integers(1, 30), seed=st.integers(0, 2**63 - 1))
def test_an_epoch_asks_for_no_prompt_twice(data, n, seed):
    count = data.draw(st.integers(1, n))
    per_epoch = n // count
    for epoch in (0, 3):
        updates = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        asked = [
            p for u in updates for p in prompts.batch(make(n), count=count, seed=seed, update=u)
        ]
        assert len(asked) == per_epoch * count
        assert max(Counter(p.id for p in asked).values()) == 1
        if n % count == 0:
            assert sorted(p.id for p in asked) == [p.id for p in make(n)]


def test_epochs_and_seeds_differ_and_a_resumed_run_asks_the_same():
    def order(seed, epoch):
        return [
            p.id
            for u in range(5 * epoch, 5 * epoch + 5)
            for p in prompts.batch(make(20), count=4, seed=seed, update=u)
        ]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_what_an_epoch_leaves_out_changes():
    asked = Counter(
        p.id for u in range(200) for p in prompts.batch(make(5), count=3, seed=0, update=u)
    )
    assert len(asked) == 5
    np.testing.assert_allclose(list(asked.values()), 120, atol=30)


@pytest.mark.parametrize("count", [0, 6])
def test_a_batch_that_cannot_be_filled_is_refused(count):
    with pytest.raises(PromptError, match=f"rollout.prompts = {count}.*5 prompts: write 1 to 5"):
        prompts.batch(make(5), count=count, seed=0, update=0)


# Splits


@pytest.mark.parametrize(
    ("text", "name"),
    [  # first four bytes of the SHA-256 from `printf %s TEXT | sha256sum`, over 2**32
        ("owl", "train"),  # 10f7127b: 0.066
        ("hamburger", "train"),  # cc86d865: 0.799
        ("cat face", "validation"),  # d03a556d: 0.813
        ("tiger", "test"),  # f15c16b9: 0.943
    ],
)
def test_split_by_hand(text, name):
    assert prompts.split(text) == name


def test_split_shares_are_80_10_10():
    count = Counter(prompts.split(f"prompt number {i}") for i in range(5000))
    expected = {"train": 4000, "validation": 500, "test": 500}
    for name, number in expected.items():
        assert abs(count[name] - number) < 4 * np.sqrt(number * (1 - number / 5000))


def test_a_larger_held_out_share_keeps_what_was_held_out():
    texts = [f"prompt number {i}" for i in range(2000)]
    tests = [{t for t in texts if prompts.split(t, (0.2, n)) == "test"} for n in (0.1, 0.25)]
    assert tests[0] < tests[1]
    assert len(tests[1]) == pytest.approx(500, abs=4 * np.sqrt(375))
    validation = [t for t in texts if prompts.split(t, (0.2, 0.25)) == "validation"]
    assert len(validation) == pytest.approx(400, abs=4 * np.sqrt(320))


def test_animals_are_emoji_with_their_ids_and_split_as_the_study_splits_them():
    everything = {p.text: p.id for p in load("emoji")}
    assert all(everything[p.text] == p.id for p in load("emoji-animals"))
    sizes = [
        len(prompts.load(PromptsConfig(source="emoji-animals", split=name, held_out=(0.2, 0.25))))
        for name in ("train", "validation", "test")
    ]
    assert sizes == [41, 19, 21]


def test_held_out_must_leave_something_to_train_on():
    with pytest.raises(ValueError, match=r"held_out = \[0\.5, 0\.5\] leaves no prompts"):
        PromptsConfig(held_out=(0.5, 0.5))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_of_split_keeps_a_split_with_its_ids_in_the_order_of_the_source(name):
    everything = load("emoji")
    loaded = prompts.of_split(everything, name)
    assert list(loaded) == [p for p in everything if prompts.split(p.text) == name]
    assert 50 < len(loaded) < 750


def test_all_without_a_limit_is_the_source_itself():
    assert list(prompts.of_split(load("emoji"), "all")) == list(load("emoji"))


def test_a_limit_takes_the_first_by_hash_and_a_larger_one_goes_on():
    # printf %s TEXT | sha256sum: owl 10f7127b, hamburger cc86d865, cat face d03a556d, tiger f15c..
    texts = ["tiger", "cat face", "hamburger", "owl"]
    here = PromptSet([Prompt(7 - i, text) for i, text in enumerate(texts)], "here")
    assert [(p.text, p.id) for p in prompts.of_split(here, "all", 3)] == [
        ("owl", 4),
        ("hamburger", 5),
        ("cat face", 6),
    ]
    assert [p.text for p in prompts.of_split(here, "all", 9)] == texts[::-1]
    assert [p.text for p in prompts.of_split(here, "train", 1)] == ["owl"]
    with pytest.raises(PromptError, match="limit = -1 must be at least 0"):
        prompts.of_split(here, "all", -1)


def test_split_and_limit_of_a_configuration(tmp_path):
    config = PromptsConfig(split="test", limit=5)
    loaded = prompts.load(config)
    assert [p.text for p in loaded] == [p.text for p in prompts.of_split(load("emoji"), "test", 5)]
    assert {prompts.split(p.text) for p in loaded} == {"test"}
    named = PromptsConfig(names=("owl", "hamburger"), split="train")
    assert [p.text for p in prompts.load(named)] == ["owl", "hamburger"]


def test_what_a_split_does_not_hold_is_refused(tmp_path):
    message = "prompts.names: 'tiger' is a test prompt, but prompts.split = 'train'; leave it out"
    with pytest.raises(PromptError, match=message):
        prompts.load(PromptsConfig(names=("owl", "tiger"), split="train"))
    file = tmp_path / "two.txt"
    file.write_text("owl\nhamburger\n")
    with pytest.raises(PromptError, match=r"none of the 2 prompts of .*two\.txt is a test prompt"):
        prompts.load(PromptsConfig(source=str(file), split="test"))


# Sets that code writes


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [  # the order of a set is the ids of its prompts, which are the keys of their noise
        ("animals", 45, "1dea5f68a0499f87"),
        ("animal-activities", 135, "0d998d89ccbafe04"),
        ("counting", 1860, "4cea0a6ef507589f"),
        ("text", 1480, "8cfcce3e78384e42"),
    ],
)
def test_the_order_of_a_generated_set_is_pinned(name, count, digest):
    loaded = load(name)
    lines = "".join(f"{p.id}\t{p.text}\t{json.dumps(p.metadata)}\n" for p in loaded)
    assert len(loaded) == count
    assert [p.id for p in loaded] == list(range(count))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_names_of_sets_are_what_a_source_may_be():
    assert {"emoji", *GENERATED} <= set(prompts.NAMED)
    for name, made in GENERATED.items():
        for prompt in load(name):
            assert tuple(prompt.metadata) == made.metadata
    with pytest.raises(PromptError, match=r"'animls': no set of prompts.*did you mean 'animals'"):
        load("animls")


def test_articles():
    for word in ("ant", "umbrella", "hour hand", "old stone wall", "enamel badge"):
        assert article(word) == "an"
    for word in ("bee", "unicorn", "horse", "T-shirt", "one-way sign"):
        assert article(word) == "a"


def test_plurals():
    for one, many in {
        "apple": "apples",
        "bench": "benches",
        "bus": "buses",
        "knife": "knives",
    }.items():
        assert plural(one) == many
    assert [plural(noun) for noun in ("sheep", "mouse", "toy", "city")] == [
        *("sheep", "mice", "toys", "cities")
    ]


def test_a_count_says_what_its_metadata_says():
    by_text = {p.text: p.metadata for p in load("counting")}
    assert by_text["three red apples"] == {"count": 3, "object": "apple", "color": "red"}
    assert by_text["one pink knife"] == {"count": 1, "object": "knife", "color": "pink"}
    assert by_text["six black mice"]["object"] == "mouse"


def test_text_to_render_is_in_the_first_double_quotes_and_asked_for_once():
    loaded = load("text")
    assert [p.text.split('"')[1] for p in loaded] == [p.metadata["text"] for p in loaded]
    assert len({p.metadata["text"].lower() for p in loaded}) == len(loaded)
    assert all(p.text.startswith(("A ", "An ")) for p in loaded)
    assert {len(p.metadata["text"].split()) for p in loaded} == {1, 2, 3}


def test_animals_do_what_ddpo_asked_of_them():
    texts = [p.text for p in load("animal-activities")]
    assert texts[:3] == ["an ant riding a bike", "an ant playing chess", "an ant washing dishes"]
    assert "a llama playing chess" in texts
    assert [p.text for p in load("animals")] == sorted(p.text for p in load("animals"))


def test_split_and_limit_of_a_generated_set():
    loaded = prompts.load(PromptsConfig(source="counting", split="test", limit=7))
    everything = {p.text: p.id for p in load("counting")}
    assert len(loaded) == 7
    assert all(prompts.split(p.text) == "test" and everything[p.text] == p.id for p in loaded)
