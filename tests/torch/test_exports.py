"""Exported adapters in the programs that load them, by the converters that diffusers ships.

Random A and B at alpha / rank = 2. A program must add 2 B A to each weight, whether or not it reads
the header or the alphas.
"""

import json

import numpy as np
import pytest
import safetensors.torch

from common.adapters import exports
from common.adapters.low_rank import pairs, peft_config
from common.config import AdapterConfig
from common.errors import RequestError
from common.runs.checkpoint import safetensors_bytes

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SETTINGS = AdapterConfig(rank=2, alpha=4.0, targets=("to_q", "to_v", "ff.net.2"))

SD3_BLOCK = {
    "attn.to_q": (1, 1), "attn.to_v": (1, 1), "attn.to_out.0": (1, 1), "attn.to_add_out": (1, 1),
    "attn.add_q_proj": (1, 1), "attn.add_k_proj": (1, 1), "attn.add_v_proj": (1, 1),
    "attn2.to_q": (1, 1), "attn2.to_k": (1, 1), "attn2.to_v": (1, 1), "attn2.to_out.0": (1, 1),
    "norm1.linear": (9, 1), "norm1_context.linear": (6, 1),
    "ff.net.0.proj": (4, 1), "ff.net.2": (1, 4),
    "ff_context.net.0.proj": (4, 1), "ff_context.net.2": (1, 4),
}  # fmt: skip
"""(out, in) of the linears of a block, in multiples of its width; to_k is not adapted."""

FLUX_DOUBLE = {
    **{name: shape for name, shape in SD3_BLOCK.items() if "attn2" not in name},
    "norm1.linear": (6, 1),
}

FLUX_SINGLE = {
    "attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1),
    "proj_mlp": (4, 1), "proj_out": (1, 5), "norm.linear": (3, 1),
}  # fmt: skip

EMBEDDERS = {
    "context_embedder": (1, 2),
    "time_text_embed.timestep_embedder.linear_1": (1, 1),
    "time_text_embed.timestep_embedder.linear_2": (1, 1),
    "time_text_embed.text_embedder.linear_1": (1, 1),
    "time_text_embed.text_embedder.linear_2": (1, 1),
}

LAST = {"norm_out.linear": (2, 1), "proj_out": (1, 1)}


def adapter(shapes, width, rank=2):
    """A and B under the names of a policy's parameters."""
    rng = np.random.default_rng(0)
    values = {}
    for name, (out, into) in shapes.items():
        a, b = (rank, into * width), (out * width, rank)
        values[f"{name}.lora_A.weight"] = rng.standard_normal(a).astype(np.float32)
        values[f"{name}.lora_B.weight"] = rng.standard_normal(b).astype(np.float32)
    return values


def changes(parameters, columns=None):
    """What each weight becomes larger by: 2 B A."""
    return {name: 2.0 * b @ a[:, :columns] for name, (a, b) in pairs(parameters).items()}


def sd3_shapes():
    """Two blocks, of which the last has no context output, and all that is not in a block."""
    shapes = {f"transformer_blocks.0.{name}": shape for name, shape in SD3_BLOCK.items()}
    shapes["transformer_blocks.1.attn.to_k"] = (1, 1)
    shapes["transformer_blocks.1.norm1_context.linear"] = (2, 1)
    return {**shapes, **EMBEDDERS, **LAST}


def flux_shapes():
    shapes = {f"transformer_blocks.0.{name}": shape for name, shape in FLUX_DOUBLE.items()}
    shapes |= {f"single_transformer_blocks.0.{name}": at for name, at in FLUX_SINGLE.items()}
    return {**shapes, **EMBEDDERS, "x_embedder": (1, 2)}


def original_changes(arrays, columns=None):
    """up down alpha / rank of a file with kohya's names, by the module's name in it."""
    changed = {}
    for name, up in arrays.items():
        if name.endswith(".lora_up.weight"):
            module = name.removesuffix(".lora_up.weight")
            down = arrays[f"{module}.lora_down.weight"]
            scale = float(arrays[f"{module}.alpha"]) / len(down)
            changed[module] = torch.from_numpy(scale * up @ down[:, :columns])
    return changed


class Original(dict):
    """A published checkpoint that is zero where no adapter changes it."""

    def pop(self, key, *default):
        rows = 7 * 3072 if "linear1" in key else 24
        return super().pop(key, torch.zeros(rows, 1))


def published(changed, modules):
    """The changes under the dotted names of a published checkpoint."""
    dotted = {f"lora_unet_{module.replace('.', '_')}": f"{module}.weight" for module in modules}
    assert changed.keys() <= dotted.keys()
    return Original({dotted[name]: value for name, value in changed.items()})


SD3_MODULES = [
    *[
        f"joint_blocks.{n}.{name}"
        for n in (0, 1)
        for name in (
            "x_block.attn.qkv", "x_block.attn.proj", "x_block.attn2.qkv", "x_block.attn2.proj",
            "x_block.mlp.fc1", "x_block.mlp.fc2", "x_block.adaLN_modulation.1",
            "context_block.attn.qkv", "context_block.attn.proj", "context_block.mlp.fc1",
            "context_block.mlp.fc2", "context_block.adaLN_modulation.1",
        )
    ],
    "context_embedder", "t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.mlp.0",
    "y_embedder.mlp.2", "final_layer.adaLN_modulation.1", "final_layer.linear",
]  # fmt: skip

FLUX_MODULES = [
    *[
        f"double_blocks.0.{name}"
        for name in (
            "img_attn.qkv", "img_attn.proj", "img_mod.lin", "img_mlp.0", "img_mlp.2",
            "txt_attn.qkv", "txt_attn.proj", "txt_mod.lin", "txt_mlp.0", "txt_mlp.2",
        )
    ],
    "single_blocks.0.linear1", "single_blocks.0.linear2", "single_blocks.0.modulation.lin",
    "img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "vector_in.in_layer",
    "vector_in.out_layer", "final_layer.adaLN_modulation.1", "final_layer.linear",
]  # fmt: skip


@pytest.mark.parametrize("program", ["kohya", "comfyui"])
def test_sd3_has_the_names_and_rows_of_the_published_code(program):
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    parameters = adapter(sd3_shapes(), width=8)
    arrays, header = exports.encode(parameters, SETTINGS, family="sd3", program=program)
    original = published(original_changes(arrays), SD3_MODULES)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(original)
    for name, expected in changes(parameters).items():
        np.testing.assert_allclose(converted[f"{name}.weight"], expected, atol=1e-5)
    assert header["ss_network_module"] == "networks.lora"


def test_flux_has_the_names_and_rows_of_the_published_code():
    """The converter has the published width; one column of the weights is enough."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    parameters = adapter({**flux_shapes(), **LAST}, width=3072, rank=1)
    one = AdapterConfig(rank=1, alpha=2.0)
    arrays, _ = exports.encode(parameters, one, family="flux", program="comfyui")
    original = published(original_changes(arrays, columns=1), FLUX_MODULES)
    converted = convert_flux_transformer_checkpoint_to_diffusers(original)
    for name, expected in changes(parameters, columns=1).items():
        np.testing.assert_allclose(converted[f"{name}.weight"], expected, atol=1e-5)


def test_diffusers_reads_the_file_for_kohya_of_flux():
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    shapes = {name: shape for name, shape in flux_shapes().items() if "blocks" in name}
    parameters = adapter(shapes, width=3072, rank=1)
    one = AdapterConfig(rank=1, alpha=2.0)
    arrays, _ = exports.encode(parameters, one, family="flux", program="kohya")
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    converted = _convert_kohya_flux_lora_to_diffusers(tensors)
    for name, expected in changes(parameters, columns=1).items():
        a = converted[f"transformer.{name}.lora_A.weight"]
        b = converted[f"transformer.{name}.lora_B.weight"]
        np.testing.assert_allclose(b @ a[:, :1], expected, atol=1e-5)


LOADED = [
    ("sd15", "diffusers"),
    ("sd15", "kohya"),
    ("sd15", "comfyui"),
    ("sd3", "diffusers"),
    ("flux", "diffusers"),
]


@pytest.mark.parametrize("from_tensors", [True, False])
@pytest.mark.parametrize(("family", "program"), LOADED)
def test_a_pipeline_adds_the_trained_strength(family, program, from_tensors, checkpoint, tmp_path):
    """With the tensors alone, without the header, as older versions and other programs load."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(checkpoint(family))
    module = pipeline.unet if family == "sd15" else pipeline.transformer
    linears = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and name.endswith(("to_q", "to_v", "ff.net.2"))
    }
    before = {name: part.weight.clone() for name, part in linears.items()}
    shapes = {name: tuple(part.weight.shape) for name, part in linears.items()}
    parameters = adapter(shapes, width=1)
    arrays, header = exports.encode(parameters, SETTINGS, family=family, program=program)
    file = tmp_path / exports.file_name(program, "run", 7)
    file.write_bytes(b"".join(safetensors_bytes(arrays, header)))
    if from_tensors:
        pipeline.load_lora_weights(safetensors.torch.load_file(file))
    else:
        pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = dict(module.named_modules())
    for name, expected in changes(parameters).items():
        change = after[name].weight - before[name]
        np.testing.assert_allclose(change.detach(), expected, atol=1e-5)


def test_peft_adds_the_trained_strength(checkpoint, tmp_path):
    peft = pytest.importorskip("peft")
    unet = diffusers.DiffusionPipeline.from_pretrained(checkpoint("sd15")).unet
    linears = [name for name, _ in unet.named_modules() if name.endswith(SETTINGS.targets)]
    before = {name: unet.get_submodule(name).weight.detach().clone() for name in linears}
    parameters = adapter({name: tuple(weight.shape) for name, weight in before.items()}, width=1)
    arrays, header = exports.encode(parameters, SETTINGS, family="sd15", program="peft")
    file = tmp_path / exports.file_name("peft", "run", 7)
    file.write_bytes(b"".join(safetensors_bytes(arrays, header)))
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_config(SETTINGS)))
    tuned = peft.PeftModel.from_pretrained(unet, tmp_path).merge_and_unload()
    for name, expected in changes(parameters).items():
        change = tuned.get_submodule(name).weight.detach() - before[name]
        np.testing.assert_allclose(change, expected, atol=1e-5)


def test_names_of_each_program():
    parameters = adapter({"mid_block.attentions.0.proj_in": (1, 1)}, width=4)
    arrays, _ = exports.encode(parameters, SETTINGS, family="sd15", program="kohya")
    module = "lora_unet_mid_block_attentions_0_proj_in"
    names = {f"{module}.lora_down.weight", f"{module}.lora_up.weight", f"{module}.alpha"}
    assert arrays.keys() == names
    assert float(arrays[f"{module}.alpha"]) == SETTINGS.rank
    assert exports.file_name("kohya", "run", 7) == "run-000007.safetensors"
    arrays, _ = exports.encode(parameters, SETTINGS, family="sd15", program="diffusers")
    name = "unet.mid_block.attentions.0.proj_in"
    assert arrays.keys() == {f"{name}.lora_A.weight", f"{name}.lora_B.weight"}


@pytest.mark.parametrize(
    ("family", "program", "name"),
    [
        ("sd15", "kohya", "time_embedding.linear_1"),
        ("flux", "kohya", "proj_out"),
        ("flux", "mlx", "proj_out"),
        ("flux", "comfyui", "a_new_layer"),
        ("sd3", "comfyui", "transformer_blocks.0.a_new_layer"),
    ],
)
def test_a_module_that_the_program_ignores_is_refused(family, program, name):
    """sd-scripts skips a module that it does not adapt, and trains or draws without it."""
    reader = {"mlx": "mflux"}.get(program, program)
    line = f"^{reader} reads no adapter of '{name}', which adapter.targets names: export it for "
    with pytest.raises(RequestError, match=line):
        exports.encode(adapter({name: (1, 1)}, 4), SETTINGS, family=family, program=program)
