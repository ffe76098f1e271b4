"""Variants of prompts: drawn right, cleaned, the same again, kept, and dealt out to a group."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common import random
from common.config import RewriterConfig
from common.prompts import Prompt, language, rewrite
from common.prompts.language import LanguageModelError
from common.prompts.rewrite import INSTRUCTION, Variants, clean
from common.random import Key, Purpose

WORDS = ["<end>", "\n", "a", "red", "crimson", "cat", "feline", "sits", "rests", "here"]
PROMPTS = [Prompt(3, "a red cat"), Prompt(8, "a cat sits")]
LLAMA = "lm"
SETTINGS = RewriterConfig(model=LLAMA, variants=3, max_tokens=12, share=0.5)


class FakeTokenizer:
    """Words to positions in WORDS; a question's words are unknown to it."""

    eos_token_id = 0
    chat_template = None

    def encode(self, text):
        self.asked = text
        return [len(text) % len(WORDS)]

    def decode(self, tokens, skip_special_tokens):
        return " ".join(WORDS[token] for token in tokens)


class FakeModel:
    """Every word but the end is as likely as any; the end comes after four words."""

    def __init__(self, folder):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        self.folder, self.tokenizer, self.starts, self.closed = folder, FakeTokenizer(), 0, False

    def start(self, context, rows):
        self.starts, self.written, self.rows = self.starts + 1, 0, rows
        return self._logits()

    def go_on(self, tokens):
        assert tokens.shape == (self.rows,)
        self.written += 1
        return self._logits()

    def _logits(self):
        logits = np.zeros((self.rows, len(WORDS)), dtype=np.float32)
        logits[:, :2] = 40.0 if self.written >= 4 else -40.0
        return logits

    def close(self):
        self.closed = True


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / LLAMA).mkdir()
    return FakeModel(tmp_path / LLAMA)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    return tmp_path / "runs" / "one"


def prepare(run, load, settings=SETTINGS, seed=5, prompts=PROMPTS, **more):
    return rewrite.prepare(prompts, settings, seed=seed, load=load, run=run, **more)


def never(name):
    raise AssertionError(f"{name} is loaded without need")


# Draws


def test_a_token_is_the_inverse_of_the_cumulative_distribution():
    logits = np.log([[1.0, 2.0, 1.0]] * 5)  # probabilities 1/4, 1/2, 1/4
    uniforms = np.array([0.0, 0.2499, 0.25, 0.7499, 0.75])
    assert language.draw(logits, uniforms, temperature=1.0).tolist() == [0, 0, 1, 1, 2]
    # At temperature 1/2 the weights are squared: 1/6, 4/6, 1/6.
    sharp = language.draw(logits, np.array([0.166, 0.167, 0.833, 0.834, 1.0]), temperature=0.5)
    assert sharp.tolist() == [0, 1, 1, 2, 2]


def test_draws_have_the_shares_of_the_distribution():
    logits = np.array([[0.3, -1.0, 1.2, -np.inf]])
    uniforms = random.uniform(Key(1, Purpose.REWRITE), (20_000,))
    tokens = language.draw(np.repeat(logits, 20_000, axis=0), uniforms, temperature=1.3)
    weights = np.exp(logits[0] / 1.3)
    counts = np.bincount(tokens, minlength=4) / 20_000
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=0.012)
    assert counts[3] == 0


def test_logits_that_are_no_numbers_stop_the_work():
    for bad in (np.nan, np.inf):
        with pytest.raises(FloatingPointError, match="not finite"):
            language.draw(np.array([[0.0, bad]]), np.array([0.5]), temperature=1.0)


# Answers


@pytest.mark.parametrize(
    ("answer", "variant"),
    [
        ("  a crimson feline \n and more", "a crimson feline"),
        ("\n\n New prompt:  “a crimson   feline”", "a crimson feline"),
        ('Prompt: "a crimson feline"', "a crimson feline"),
        ("'tis a feline's mat", "'tis a feline's mat"),
        ('"cat" and "dog"', '"cat" and "dog"'),
        ("", None),
        (' ""\n', None),
        ("A red, cat!", None),
        ("word " * 60, ("word " * 60).strip()),
        ("word " * 61, None),
    ],
)
def test_an_answer_is_cleaned_or_refused(answer, variant):
    assert clean(answer, "a red cat") == variant


def test_quoted_words_must_stay_as_they_are():
    prompt = 'A neon sign that says "Quiet Moon"'
    assert clean('A "Quiet Moon" in neon letters', prompt) == 'A "Quiet Moon" in neon letters'
    assert clean('A neon sign reading "quiet moon"', prompt) is None
    assert clean("A neon sign reading Quiet Moon", prompt) is None


def test_an_answer_ends_with_its_token_or_its_line_and_never_in_the_middle(model):
    uniforms = np.full((2, 12), 0.5)
    ended, lines = language.ask(model, "q", uniforms, temperature=1.0)
    assert ended.strip() == lines.strip() == "feline feline feline feline"
    assert language.ask(model, "q", uniforms[:, :4], temperature=1.0) == [None, None]


def test_all_end_tokens_of_the_configuration_count(model):
    (model.folder / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    uniforms = np.array([[0.1, 0.5, 0.1], [0.5, 0.1, 0.1]])
    assert language.ask(model, "q", uniforms, temperature=1.0)[:2] == ["a", ""]


def test_a_chat_template_is_put_around_the_question(model):
    tokenizer = model.tokenizer
    tokenizer.chat_template = "a template"

    def apply(messages, *, add_generation_prompt, tokenize, enable_thinking):
        assert (add_generation_prompt, tokenize, enable_thinking) == (True, False, False)
        return f"<{messages[0]['role']}>{messages[0]['content']}<assistant>"

    def encode(text, add_special_tokens):
        assert not add_special_tokens  # the template has its own
        return [len(text)]

    tokenizer.apply_chat_template, tokenizer.encode = apply, encode
    model.start = lambda context, rows: seen.append(context) or np.zeros((rows, 3))
    seen = []
    language.ask(model, "why", np.zeros((1, 1)), temperature=1.0)
    assert seen == [[len("<user>why<assistant>")]]


# What is written and kept


def test_variants_are_seeded_different_and_asked_for_by_the_instruction(model, run):
    written = prepare(run, lambda name: model)
    assert model.closed
    assert model.starts == len(PROMPTS)  # all that are wanted at once, each with its own draws
    assert model.tokenizer.asked == INSTRUCTION.format(prompt="a cat sits")
    assert set(written.by_text) == {"a red cat", "a cat sits"}
    for prompt, variants in written.by_text.items():
        assert len(set(variants)) == len(variants) == 3
        assert prompt not in variants
    again = prepare(run.parent / "two", lambda name: FakeModel(model.folder), seed=6)
    assert again.by_text != written.by_text


def test_variants_do_not_depend_on_the_other_prompts(model, run):
    together = prepare(run, lambda name: model).by_text
    for prompt in PROMPTS:
        alone = rewrite.write(prompt.text, model, SETTINGS, 5)
        assert alone == list(together[prompt.text])


def test_siblings_share_what_is_written_and_a_resumed_run_needs_no_model(model, run):
    first = prepare(run, lambda name: model)
    sibling = run.parent / "two"
    sibling.mkdir()
    assert prepare(sibling, never).by_text == first.by_text
    rewrite.keep(first, SETTINGS, seed=5, run=run)
    (model.folder / "config.json").unlink()
    resumed = prepare(run, never)
    assert {text: list(variants) for text, variants in resumed.by_text.items()} == first.by_text


def test_a_killed_rewriting_goes_on_where_it_was(model, run):
    class KilledError(Exception):
        pass

    def on_progress(done, total):
        if done == 1:
            raise KilledError

    with pytest.raises(KilledError):
        prepare(run, lambda name: model, on_progress=on_progress)
    assert model.closed
    starts = model.starts
    prepare(run, lambda name: model)
    whole = FakeModel(model.folder)
    rewrite.write(PROMPTS[1].text, whole, SETTINGS, 5)
    assert model.starts == starts + whole.starts


@pytest.mark.parametrize("damage", ["{", "[]", '{"made_from": 1}', '{"variants": null}', ""])
def test_what_is_damaged_is_written_again(model, run, damage):
    first = prepare(run, lambda name: model)
    rewrite.keep(first, SETTINGS, seed=5, run=run)
    for path in [run / rewrite.RUN_FILE, *(run.parent / rewrite.CACHE).rglob("*.json")]:
        path.write_text(damage)
    assert prepare(run, lambda name: model).by_text == first.by_text


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"temperature": 0.5}, {"variants": 2}, {"max_tokens": 11}],
)
def test_other_settings_are_other_variants(model, run, change):
    rewrite.keep(prepare(run, lambda name: model), SETTINGS, seed=5, run=run)
    starts = model.starts
    seed = change.pop("seed", 5)
    prepare(run, lambda name: model, settings=SETTINGS.model_copy(update=change), seed=seed)
    assert model.starts > starts


def test_other_weights_are_other_variants(model, run):
    prepare(run, lambda name: model)
    starts = model.starts
    (model.folder / "model.safetensors").write_bytes(b"other")
    prepare(run, lambda name: model)
    assert model.starts > starts


def test_the_share_alone_needs_no_new_variants(model, run):
    rewrite.keep(prepare(run, lambda name: model), SETTINGS, seed=5, run=run)
    other = SETTINGS.model_copy(update={"share": 1.0})
    assert prepare(run, never, settings=other).share == 1.0


def test_without_a_model_there_is_nothing(run):
    settings = RewriterConfig()
    written = prepare(run, never, settings=settings)
    rewrite.keep(written, settings, seed=5, run=run)
    assert written.texts(PROMPTS[0], 4, seed=0, update=0) == ["a red cat"] * 4
    assert list(run.parent.rglob("*")) == [run]


# Groups


def test_a_share_of_the_group_sees_variants_evenly():
    variants = Variants({"a red cat": ("b", "c", "d")}, share=0.5)
    for update in range(20):
        texts = variants.texts(PROMPTS[0], 12, seed=1, update=update)
        assert texts == variants.texts(PROMPTS[0], 12, seed=1, update=update)
        assert texts.count("a red cat") == 6
        assert [texts.count(variant) for variant in "bcd"] == [2, 2, 2]
    assert variants.metrics([texts], PROMPTS[:1]) == {"prompts/varied": 0.5}
    assert Variants().metrics([texts], PROMPTS[:1]) == {}


def test_which_samples_vary_changes_with_update_prompt_and_seed():
    variants = Variants({"a red cat": ("b", "c"), "a cat sits": ("b", "c")}, share=0.5)
    patterns = {
        tuple(text in "bc" for text in variants.texts(prompt, 16, seed=seed, update=update))
        for prompt in PROMPTS
        for seed in (0, 1)
        for update in (0, 1)
    }
    assert len(patterns) == 8
    assert Variants({}, share=1.0).texts(PROMPTS[0], 2, seed=0, update=0) == ["a red cat"] * 2


# Bad names


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(LanguageModelError, match=r"is no language model: it has no config\.json"):
        language.find(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LanguageModelError, match="is no language model: it has no safetensors"):
        language.find(str(tmp_path))


def test_a_library_that_cannot_load_says_so_in_one_line():
    for error, says in (
        (ImportError("x", name="mlx_lm"), "needs the Python package mlx_lm"),
        (OSError("no\nsuch"), "cannot load language model m: no such"),
    ):
        with (
            pytest.raises(LanguageModelError, match=says) as caught,
            language.load_errors_as_one_line("m"),
        ):
            raise error
        assert "\n" not in str(caught.value)


def test_a_repository_that_cannot_be_reached(monkeypatch):
    import huggingface_hub as hub
    from huggingface_hub import errors

    reasons = {
        errors.GatedRepoError: "licence must be accepted",
        errors.RepositoryNotFoundError: "no such repository",
        errors.LocalEntryNotFoundError: "is there a network",
        OSError: "is there a network",
    }
    for kind, says in reasons.items():

        def refuse(*args, kind=kind, **more):
            response = SimpleNamespace(headers={}, request=None)
            raise kind("refused", response=response) if "Repo" in kind.__name__ else kind("refused")

        monkeypatch.setattr(hub, "snapshot_download", refuse)
        with pytest.raises(LanguageModelError, match=says) as caught:
            language.find("owner/name")
        assert "\n" not in str(caught.value)
    monkeypatch.undo()
    with pytest.raises(LanguageModelError, match="a repository is called OWNER/NAME"):
        language.find("/no/such/folder")


def test_what_is_kept_is_readable(model, run):
    written = prepare(run, lambda name: model)
    rewrite.keep(written, SETTINGS, seed=5, run=run)
    content = json.loads((run / rewrite.RUN_FILE).read_text())
    assert content["made_from"]["seed"] == 5
    assert content["variants"] == {text: list(v) for text, v in written.by_text.items()}
