"""A folder that is damaged or incomplete is refused in one line, the same on both backends.

Each line names the file, and what to set in it where that is the user's to say.
"""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common import backends, hub
from common.errors import NotFiniteError
from tests.shapes import settings_of

pytest.importorskip("torch")
pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

BACKENDS = ("cpu", "mlx")
DAMAGES = ("missing", "surplus", "misshapen")


@pytest.fixture
def copy_of(checkpoint, tmp_path):
    """(shape) -> a copy of a tiny checkpoint's folder that a test may damage."""

    def copy(shape):
        path = settings_of(checkpoint, shape).model.path
        return shutil.copytree(path, tmp_path / shape)

    return copy


@pytest.fixture
def policy_of(checkpoint):
    def make(name, shape, folder, *changes):
        config = settings_of(checkpoint, shape, f"model.path={folder}", *changes)
        return backends.load(name).policy(config.model, config.adapter, seed=0)

    return make


@pytest.fixture
def refused(policy_of):
    """The line with which both backends refuse a folder, without the folder's name."""

    def lines(shape, folder, *changes):
        texts = []
        for name in BACKENDS:
            with pytest.raises(ValueError, match=r"model\.path = ") as caught:
                policy_of(name, shape, folder, *changes)
            text = str(caught.value)
            assert "\n" not in text
            text = text.replace(f"model.path = '{folder}': ", "")
            texts.append(text.replace("'text_model.", "'"))  # a prefix that some versions have
        return texts

    return lines


def changed(arrays, damage):
    """The arrays with one of them damaged, and what is said of it."""
    names = [name for name in sorted(arrays) if not name.startswith("encoder.conv")]
    name = names[len(names) // 2]
    array, others = arrays[name], {n: a for n, a in arrays.items() if n != name}
    known = name.removeprefix("text_model.")
    if damage == "missing":
        return others, f"'{known}' is missing"
    if damage == "surplus":
        new = f"{name}_old"
        return arrays | {new: array}, f"'{known}_old' is surplus; the nearest one that belongs the"
    wrong = np.zeros([n + 1 for n in array.shape], np.float32)
    return others | {name: wrong}, f"'{known}' has shape {list(wrong.shape)}, not "


@pytest.mark.parametrize(("turn", "shape"), enumerate(["sd15", "sd35", "flux-dev"]))
def test_every_weight_of_every_component_is_the_models(turn, shape, copy_of, refused):
    folder = copy_of(shape)
    files = sorted(folder.glob("*/*.safetensors"))
    assert len(files) == {"sd15": 3, "sd35": 5, "flux-dev": 4}[shape]
    for number, file in enumerate(files):
        whole = file.read_bytes()
        arrays, says = changed(load_file(file), DAMAGES[(turn + number) % 3])
        save_file(arrays, file, metadata={"format": "pt"})
        for line in refused(shape, folder):
            assert line.startswith(f"{file.relative_to(folder)}: {says}")
        file.write_bytes(whole)


def without(*names):
    """A damage: weights of the component that are left out."""

    def damage(file):
        arrays = load_file(file)
        gone = [name for name in arrays if any(part in name for part in names)]
        assert gone
        kept = {name: array for name, array in arrays.items() if name not in gone}
        save_file(kept, file, metadata={"format": "pt"})

    return damage


@pytest.mark.parametrize(
    ("shape", "component", "damage", "says"),
    [
        ("sd3", "text_encoder", without("text_projection"), "'text_projection.weight' is missing"),
        ("flux-dev", "text_encoder_2", without("block.1."), "'encoder.block.1.layer.0.Self"),
        ("flux-dev", "text_encoder_2", without("shared"), ".weight' is missing"),
        ("sd3", "text_encoder_3", lambda f: f.rename(f.with_name("old")), "safetensors is missing"),
        ("sd15", "unet", lambda f: f.write_bytes(b""), "diffusion_pytorch_model.safetensors"),
        ("sd15", "text_encoder", lambda f: f.write_bytes(b"\0" * 40), "model.safetensors"),
    ],
)
def test_weights_that_are_not_there(shape, component, damage, says, copy_of, refused):
    folder = copy_of(shape)
    (file,) = folder.glob(f"{component}/*.safetensors")
    damage(file)
    for line in refused(shape, folder):
        assert line.startswith(f"{component}/")
        assert says in line


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_of_float16_alone_are_read(name, copy_of, policy_of):
    """The names of diffusers' variant "fp16"; one component is in shards, beside a plain index."""
    folder = copy_of("flux-dev")
    x = np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32)

    def predicted():
        policy, backend = policy_of(name, "flux-dev", folder), backends.load(name)
        with backend.inference():
            time, prompt = policy.embed_time(np.array([0.75])), policy.encode(["a red fox"])
            prediction = policy.predict(backend.asarray(x), time, prompt)
            return backend.to_numpy(prediction), policy.decode(backend.asarray(x))

    expected = predicted()
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    whole = folder / "text_encoder_2" / "model.fp16.safetensors"
    arrays = load_file(whole)
    whole.unlink()
    names, shards = sorted(arrays), {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"model.fp16-{number:05d}-of-00002.safetensors"
        save_file({n: arrays[n] for n in part}, whole.with_name(file), metadata={"format": "pt"})
        shards |= dict.fromkeys(part, file)
    for index, table in (
        ("model.safetensors.index.fp16.json", shards),
        ("model.safetensors.index.json", {n: f.replace(".fp16", "") for n, f in shards.items()}),
    ):
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": table})
        whole.with_name(index).write_text(text)
    for ours, theirs in zip(predicted(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def says(**values):
    """A damage: settings of a JSON file; ... leaves one out."""

    def damage(file):
        settings = json.loads(file.read_text()) | values
        kept = {key: value for key, value in settings.items() if value is not ...}
        file.write_text(json.dumps(kept))

    return damage


def pipe(file):
    file.unlink(missing_ok=True)
    os.mkfifo(file)


UNET = "unet/config.json says sample_size = {}: set model.resolution to the pixels of a side"
MMDIT = "transformer/config.json says sample_size = {}: set it there to the latents of a side"
NO_LENGTH = "tokenizer/tokenizer_config.json has no model_max_length: set it to 77 there"


@pytest.mark.parametrize(
    ("shape", "file", "damage", "line"),
    [
        ("sd15", "tokenizer/tokenizer_config.json", says(model_max_length=...), NO_LENGTH),
        ("sd3-no-t5", "tokenizer/tokenizer_config.json", says(model_max_length=None), NO_LENGTH),
        ("flux-dev", "tokenizer/tokenizer_config.json", says(model_max_length=...), NO_LENGTH),
        (
            "sd15",
            "tokenizer/tokenizer_config.json",
            says(model_max_length=200),
            "tokenizer/tokenizer_config.json says model_max_length = 200, but its text encoder "
            "reads 77 tokens: set it to 77 there",
        ),
        ("sd15", "unet/config.json", says(sample_size=None), UNET.format("null")),
        ("sd15", "unet/config.json", says(sample_size=[16, 8]), UNET.format("[16, 8]")),
        ("sd3-no-t5", "transformer/config.json", says(sample_size=None), MMDIT.format("null")),
        ("sd3-no-t5", "transformer/config.json", says(sample_size=[9, 9]), MMDIT.format("[9, 9]")),
        (
            "flux-dev",
            "vae/config.json",
            says(sample_size=None),
            "vae/config.json says sample_size = null: set it there to the pixels of a side",
        ),
        (
            "flux-dev",
            "vae/config.json",
            says(scaling_factor=None),
            "vae/config.json says scaling_factor = null: set it there to the number that",
        ),
        (
            "sd15",
            "tokenizer/tokenizer.json",
            lambda file: file.unlink(),
            "tokenizer/tokenizer.json is missing; it has tokenizer_config.json",
        ),
        (
            "flux-dev",
            "tokenizer_2/tokenizer_config.json",
            says(pad_token=None),
            "tokenizer_2/tokenizer_config.json has no pad_token: set it there",
        ),
        (
            "flux-dev",
            "tokenizer_2/tokenizer_config.json",
            says(model_max_length=[9]),
            "tokenizer_2/tokenizer_config.json says model_max_length = [9]: set a number there",
        ),
        ("sd15", "model_index.json", says(vae=7), "its component 'vae' is missing"),
        ("flux-dev", "model_index.json", says(tokenizer=...), "its component 'tokenizer' is miss"),
        ("sd15", "model_index.json", says(unet=[1]), "model_index.json is damaged"),
        ("sd15", "unet/config.json", pipe, "unet/config.json is not a regular file"),
        ("sd15", "tokenizer/merges.txt", pipe, "tokenizer/merges.txt is not a regular file"),
        (
            "sd15",
            "scheduler/scheduler_config.json",
            lambda file: file.write_text('{"a":' * 5000),
            "scheduler/scheduler_config.json is damaged",
        ),
    ],
)
def test_settings_of_files(shape, file, damage, line, copy_of, refused):
    folder = copy_of(shape)
    damage(folder / file)
    for got in refused(shape, folder):
        assert got.startswith(line)


def test_a_square_sample_size_may_be_a_list(copy_of, policy_of):
    folder = copy_of("sd15")
    says(sample_size=[16, 16])(folder / "unet/config.json")
    says(sample_size=[32, 32])(folder / "vae/config.json")
    for name in BACKENDS:
        policy = policy_of(name, "sd15", folder, "model.vae_tiling=true")
        assert policy.latent_shape == (4, 16, 16)


@pytest.mark.parametrize("index", ["{}", "../other.safetensors", "gone.safetensors"])
def test_an_index_of_shards_that_leads_nowhere(index, copy_of, refused):
    folder = copy_of("sd15")
    (file,) = folder.glob("unet/*.safetensors")
    table = {"weight_map": {"conv_in.bias": index} if index != "{}" else {}}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(table))
    expected = {
        "{}": "safetensors.index.json is damaged",
        "../other.safetensors": "names '../other.safetensors', no plain file name",
        "gone.safetensors": "unet/gone.safetensors is missing, which ",
    }[index]
    for line in refused("sd15", folder):
        assert expected in line


@pytest.mark.parametrize("name", BACKENDS)
def test_a_vae_that_gives_nan_is_an_error(name, copy_of, policy_of):
    """Black images would please a reward that likes small files."""
    folder = copy_of("sd15")
    (file,) = folder.glob("vae/*.safetensors")
    arrays = load_file(file)
    arrays["decoder.conv_out.bias"][0] = np.nan
    save_file(arrays, file, metadata={"format": "pt"})
    policy, backend = policy_of(name, "sd15", folder), backends.load(name)
    x = backend.asarray(np.zeros((2, *policy.latent_shape), np.float32))
    with pytest.raises(NotFiniteError, match="2 of 2 decoded images of finite latents are not fi"):
        policy.decode(x)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_repository_with_float16_alone_is_fetched_again(name, copy_of, policy_of, monkeypatch):
    import diffusers
    import huggingface_hub

    folder, asked = copy_of("flux-dev"), []
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    part = shutil.copytree(folder, folder.with_name("part"))
    for file in part.glob("*/*.fp16.safetensors"):
        file.unlink()

    def download(_, *, variant=None, ignore_patterns=("*.fp16*",), **__):
        whole = variant == "fp16" or (name == "mlx" and "*.fp16*" not in ignore_patterns)
        asked.append(whole)
        return str(folder if whole else part)

    monkeypatch.setattr(diffusers.FluxPipeline, "download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *_: str(folder / "model_index.json")
    )
    monkeypatch.setattr(hub, "asked", contextlib.nullcontext)
    assert policy_of(name, "flux-dev", "somebody/something").latent_shape == (4, 16, 16)
    assert asked == [False, True]
