"""The rewriter of both backends, on one folder that transformers wrote: the same variants.

The model is a tiny Llama with random weights, so its answers are words in any order; what counts
is that both libraries give the same logits, and that the same tokens follow from them.
"""

import json

import numpy as np
import pytest

from common.config import RewriterConfig
from common.prompts import Prompt, language, rewrite
from common.prompts.language import LanguageModelError
from drift_mlx.rewriter import LanguageModel as MlxModel
from drift_torch.rewriter import LanguageModel as TorchModel

WORDS = "a the red blue two three cat cats dog sign sits under tree small bright in snow at dusk"
PROMPTS = [Prompt(0, "a red cat"), Prompt(1, "three cats in snow"), Prompt(2, "the small dog")]
KINDS = {"torch": TorchModel, "mlx": MlxModel}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama of 30 thousand weights with a tokenizer of its own words, in float32."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    words = ["<unk>", "<s>", "</s>", "<turn>", *WORDS.split()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="{{ bos_token }} {% for m in messages %}{{ m.content }}{% endfor %} <turn>",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,  # wide enough that the next token depends on those before it
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return {name: kind(str(folder)) for name, kind in KINDS.items()}


def test_logits_agree_and_follow_from_all_that_was_read(loaded):
    context, followers = [1, 4, 5, 6, 7, 8], [np.array([9, 10]), np.array([11, 12])]
    logits = {
        name: [model.start(context, 2), *(model.go_on(tokens) for tokens in followers)]
        for name, model in loaded.items()
    }
    for ours, theirs in zip(logits["torch"], logits["mlx"], strict=True):
        assert ours.shape == theirs.shape == (2, len(WORDS.split()) + 4)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    for name, model in loaded.items():
        for row in (0, 1):  # reading it all at once gives what reading it in steps gave
            whole = model.start([*context, *(int(tokens[row]) for tokens in followers)], 1)
            np.testing.assert_allclose(whole[0], logits[name][2][row], atol=2e-5)
        assert np.abs(logits[name][2][0] - logits[name][2][1]).max() > 0.1


def test_the_same_prompts_and_seed_give_the_same_variants_token_for_token(folder, tmp_path):
    settings = RewriterConfig(model=str(folder), variants=4, max_tokens=24, temperature=1.0)
    written, digests = {}, set()
    for name, kind in KINDS.items():
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        found = rewrite.prepare(PROMPTS, settings, seed=7, load=kind, run=run)
        written[name] = found.by_text
        cached = [json.loads(p.read_text()) for p in (run.parent / rewrite.CACHE).rglob("*.json")]
        digests |= {entry["made_from"]["model"] for entry in cached}
    assert written["torch"] == written["mlx"]
    assert digests == {language.digest(folder)}
    variants = [text for found in written["torch"].values() for text in found]
    assert len(variants) >= 9
    assert len(set(variants)) == len(variants)
    assert set(" ".join(variants).split()) <= {*WORDS.split(), "<turn>", "<unk>"}


def test_answers_are_drawn_from_what_the_model_says(loaded):
    """Cold, an answer is the likeliest word after each word: recomputed here without a cache."""
    for model in loaded.values():
        draws = np.full((1, 6), 0.5)
        (answer,) = language.ask(model, "a red cat", draws, temperature=1e-4)
        read = list(model.tokenizer.encode("<s> a red cat <turn>", add_special_tokens=False))
        best = []
        for _ in range(6):
            best.append(int(model.start([*read, *best], 1)[0].argmax()))
        expected = None if 2 not in best else model.tokenizer.decode(best[: best.index(2)])
        assert answer == expected


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_folder_that_does_not_load_is_reported_in_one_line(kind, folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(LanguageModelError, match="cannot load language model") as e:
        kind(str(tmp_path))
    assert "no-such-model" in str(e.value)
    assert "\n" not in str(e.value)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(LanguageModelError, match="cannot load language model"):
        kind(str(tmp_path))
