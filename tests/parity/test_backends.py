"""What `common.backends` promises, on each backend: policies, optimizers, arrays, scorers."""

import numpy as np
import pytest

from common import backends, random
from common.backends import BackendUnavailableError, Conditioning
from common.config import AdapterConfig, ModelConfig, OptimizerConfig
from common.embedded import model as shared

SMALL = AdapterConfig(rank=2, targets=("o", "m2"))
KINDS = [SMALL, AdapterConfig(kind="full")]


@pytest.fixture(scope="module", params=["cpu", "mlx"])
def backend(request):
    try:
        return backends.load(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def batch(backend):
    """Two latents, the features of their different times, and their conditioning."""
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    x = random.normal(random.Key(3, random.Purpose.EVALUATION), (2, *policy.latent_shape))
    times = policy.embed_time(np.array([0.9, 0.2]))
    return backend.asarray(x), times, policy.encode(["owl", "rose"])


def predict(backend, policy, batch):
    with backend.inference():
        return backend.to_numpy(policy.predict(*batch))


def gradients(backend, policy, batch):
    def loss(x, time, tokens):
        velocity = policy.predict(x, time, Conditioning(tokens))
        return (velocity * velocity).mean(), {"velocity": velocity}

    x, time, conditioning = batch
    return backend.value_and_grad(policy, loss)(x, time, conditioning.tokens)[2]


def host(backend, arrays):
    return {name: backend.to_numpy(array) for name, array in arrays.items()}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("adapter", KINDS, ids=lambda a: a.kind)
def test_the_reference_is_the_base_model_bit_for_bit(backend, batch, adapter):
    policy = backend.policy(ModelConfig(), adapter, seed=0)
    before = predict(backend, policy, batch)
    with policy.reference():
        np.testing.assert_array_equal(predict(backend, policy, batch), before)
    encoded = backend.to_numpy(policy.encode(["owl"]).tokens)
    optimizer = backend.optimizer(policy, OptimizerConfig())
    optimizer.step(gradients(backend, policy, batch))
    after = predict(backend, policy, batch)
    assert np.abs(after - before).max() > 1e-5
    with policy.reference():
        np.testing.assert_array_equal(predict(backend, policy, batch), before)
    np.testing.assert_array_equal(predict(backend, policy, batch), after)
    np.testing.assert_array_equal(backend.to_numpy(policy.encode(["owl"]).tokens), encoded)


@pytest.mark.parametrize("adapter", KINDS, ids=lambda a: a.kind)
def test_an_error_within_the_reference_ends_it(backend, batch, adapter):
    policy = backend.policy(ModelConfig(), adapter, seed=0)
    backend.optimizer(policy, OptimizerConfig()).step(gradients(backend, policy, batch))
    after = predict(backend, policy, batch)
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    np.testing.assert_array_equal(predict(backend, policy, batch), after)


def test_full_tuning_trains_all_but_the_text_encoder(backend):
    policy = backend.policy(ModelConfig(), AdapterConfig(kind="full"), seed=0)
    names = list(policy.parameters())
    assert names == sorted(shared.denoiser_weights().keys() - {"emb.weight", "tpos"})
    lora = list(backend.policy(ModelConfig(), SMALL, seed=0).parameters())
    assert lora == sorted(
        f"blocks.{i}.{target}.lora_{part}.weight"
        for i in range(6)
        for target in ("o", "m2")
        for part in "AB"
    )


def test_each_sample_has_its_own_time(backend, batch):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    together = predict(backend, policy, batch)
    x, time, conditioning = batch
    for i in range(2):
        one = (x[i : i + 1], time[i : i + 1], Conditioning(conditioning.tokens[i : i + 1]))
        np.testing.assert_allclose(
            predict(backend, policy, one)[0], together[i], rtol=1e-5, atol=1e-5
        )


def test_parameters_are_copies_both_ways(backend, batch):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    held = policy.parameters()
    values = host(backend, held)
    backend.optimizer(policy, OptimizerConfig()).step(gradients(backend, policy, batch))
    assert_same(host(backend, held), values)
    given = {name: value + 1 for name, value in values.items()}
    policy.load_parameters(given)
    for value in given.values():
        value[:] = 0
    assert_same(host(backend, policy.parameters()), {n: v + 1 for n, v in values.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("blocks.3.o.lora_A.weight"), r"'blocks.3.o.lora_A.weight' is missing"),
        (lambda v: v.update(o=np.zeros(1)), "'o' is surplus"),
        (lambda v: v.update({"blocks.3.o.lora_A.weight": np.zeros((2, 3))}), "shape"),
    ],
)
def test_parameters_that_do_not_fit_are_named(backend, change, message):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    values = host(backend, policy.parameters())
    change(values)
    with pytest.raises(ValueError, match=message):
        policy.load_parameters(values)


def test_weights_that_lack_a_tensor_are_refused(backend, tmp_path):
    from safetensors.numpy import save_file

    weights = shared.denoiser_weights()
    del weights["blocks.2.mod"]
    save_file(weights, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"half.safetensors: 'blocks.2.mod' is missing"):
        backend.policy(ModelConfig(path=str(tmp_path / "half.safetensors")), SMALL, seed=0)


def test_a_target_that_matches_nothing_is_named(backend):
    with pytest.raises(ValueError, match=r"called 'to_k'; valid: .*qkv"):
        backend.policy(ModelConfig(), AdapterConfig(targets=("to_k",)), seed=0)


def test_the_first_step_is_adamw_worked_by_hand(backend):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    settings = OptimizerConfig(learning_rate=0.01, weight_decay=0.1, max_grad_norm=5.0)
    before = host(backend, policy.parameters())
    name = "blocks.0.o.lora_A.weight"
    values = {n: np.zeros_like(v) for n, v in before.items()}
    values[name][0, :2] = [30.0, -40.0]
    optimizer = backend.optimizer(policy, settings)
    norm = optimizer.step({n: backend.asarray(v) for n, v in values.items()})
    assert norm == pytest.approx(50.0, rel=1e-6)
    # Clipped from 50 to 5: (3, -4). The first step is lr times the sign, after the decay.
    expected = before[name] * (1 - 0.01 * 0.1)
    expected[0, :2] -= [0.01, -0.01]
    got = host(backend, policy.parameters())
    np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-7)
    state = optimizer.state()
    assert state["step"] == 1
    assert state["step"].dtype == np.int64
    np.testing.assert_allclose(state[f"first/{name}"][0, :3], [0.3, -0.4, 0.0], rtol=1e-5)
    np.testing.assert_allclose(state[f"second/{name}"][0, :3], [9e-3, 16e-3, 0.0], rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(backend, batch, bad):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    optimizer = backend.optimizer(policy, OptimizerConfig())
    good = gradients(backend, policy, batch)
    optimizer.step(good)
    parameters, state = host(backend, policy.parameters()), optimizer.state()
    values = host(backend, good)
    values["blocks.5.m2.lora_B.weight"][-1, -1] = bad
    with pytest.raises(FloatingPointError, match=r"norm is (nan|inf); nothing was updated"):
        optimizer.step({n: backend.asarray(v) for n, v in values.items()})
    assert_same(host(backend, policy.parameters()), parameters)
    assert_same(optimizer.state(), state)


def test_optimizer_state_is_restored_exactly_and_checked(backend, batch):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    optimizer = backend.optimizer(policy, OptimizerConfig())
    fresh = optimizer.state()
    assert fresh["step"] == 0
    assert not any(value.any() for value in fresh.values())
    step = gradients(backend, policy, batch)
    optimizer.step(step)
    other = backend.policy(ModelConfig(), SMALL, seed=9)
    other.load_parameters(host(backend, policy.parameters()))
    resumed = backend.optimizer(other, OptimizerConfig())
    resumed.load_state(optimizer.state())
    assert_same(resumed.state(), optimizer.state())
    optimizer.step(step)
    resumed.step(step)
    assert_same(host(backend, other.parameters()), host(backend, policy.parameters()))
    lacking = optimizer.state()
    del lacking["second/blocks.0.o.lora_A.weight"]
    with pytest.raises(ValueError, match=r"'second/blocks.0.o.lora_A.weight' is missing"):
        resumed.load_state(lacking)


def test_a_parameter_that_the_loss_does_not_use_has_a_gradient_of_zero(backend):
    policy = backend.policy(ModelConfig(), AdapterConfig(targets=("o", "ctx")), seed=0)

    def loss(tokens):
        return policy.module.ctx(tokens).mean(), {}

    found = host(backend, backend.value_and_grad(policy, loss)(policy.encode(["owl"]).tokens)[2])
    assert found["ctx.lora_B.weight"].any()
    assert not found["blocks.0.o.lora_B.weight"].any()


def test_what_inference_makes_can_be_used_in_an_update(backend, batch):
    policy = backend.policy(ModelConfig(), SMALL, seed=0)
    with backend.inference():
        x = policy.predict(*batch)
        conditioning = policy.encode(["owl", "rose"])
    found = gradients(backend, policy, (x, batch[1], conditioning))
    assert host(backend, found)["blocks.0.o.lora_B.weight"].any()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("float64", "float32"), ("int64", "int32"), ("uint8", "int32"), ("bool", "bool")],
)
def test_arrays_take_the_device_types(backend, given, expected):
    values = np.array([[0, 1], [1, 0]], dtype=given)
    back = backend.to_numpy(backend.asarray(values))
    assert back.dtype == expected
    np.testing.assert_array_equal(back, values.astype(expected))
    with pytest.raises(ValueError, match="complex64"):
        backend.asarray(np.zeros(1, dtype=np.complex64))


def test_the_machine_is_described(backend):
    facts = backend.describe()
    assert all(isinstance(value, str) for value in facts.values())
    assert {"library", "device", "dtype", "threads"} <= facts.keys()
    backend.evaluate(backend.asarray(np.ones(1000)))  # MLX counts from its first array on
    assert backend.device_memory()["peak"] > 0


def test_what_the_model_calls_frozen_is_not_tuned(backend, monkeypatch):
    settings = AdapterConfig(kind="full")
    usual = backend.policy(ModelConfig(), settings, seed=0).parameters().keys()
    frozen = {"emb.weight", "tpos", "blocks.1.mod", "out.bias"}
    monkeypatch.setattr(shared.DenoiserConfig, "frozen", property(lambda _: frozenset(frozen)))
    fewer = backend.policy(ModelConfig(), settings, seed=0).parameters().keys()
    assert not {"emb.weight", "tpos"} & usual
    assert usual - fewer == {"blocks.1.mod", "out.bias"}
    assert fewer < usual


def test_a_scorer_says_what_is_wrong(backend):
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    scorer = backend.scorer("train")
    with pytest.raises(ValueError, match="2 images but 1 prompts"):
        scorer.score(images, ["owl"])
    with pytest.raises(ValueError, match="unknown word 'owll'"):
        scorer.score(images, ["owl", "owll"])
    with pytest.raises(ValueError, match="'mean'; valid: train, heldout"):
        backend.scorer("mean")


def test_scores_do_not_depend_on_the_chunk(backend, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    scorer = backend.scorer("train")
    whole = scorer.score(images, ["owl"] * 3)
    monkeypatch.setitem(type(scorer).score.__globals__, "CHUNK", 2)
    scorer.score(images[:1], ["owl"])  # so that it has other images in mind
    np.testing.assert_allclose(scorer.score(images, ["owl"] * 3), whole, rtol=1e-5)


def test_features_do_not_depend_on_the_order_of_pixels_in_memory(backend):
    images = np.random.default_rng(2).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    scorer = backend.scorer("train")
    first = scorer.features(channels_first)
    scorer.features(255 - images)  # so that it has other images in mind
    np.testing.assert_array_equal(scorer.features(images), first)


def test_the_same_images_are_convolved_once_and_others_again(backend):
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    scorer = backend.scorer("heldout")
    assert backend.scorer("heldout") is scorer
    scores = scorer.score(images, ["owl"] * 3)
    scorer.features(255 - images)  # so that it has other images in mind
    features = scorer.features(images)
    kept = scorer._features(images)
    np.testing.assert_array_equal(scorer.score(images, ["owl"] * 3), scores)
    np.testing.assert_array_equal(scorer.features(images.copy()), features)
    assert scorer._features(images.copy()) is kept
    images[2, 31, 31, 2] ^= 1
    assert scorer._features(images) is not kept
    assert (scorer.features(images)[2] != features[2]).any()
