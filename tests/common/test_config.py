"""Every key is declared, bounded and described; an error names the wrong one; TOML keeps all."""

import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, strategies as st
from pydantic import BaseModel, ValidationError

from common import config, prompts
from common.config import (
    Config,
    ConfigError,
    PromptsConfig,
    differences,
    load,
    parse,
    to_tables,
)

NOTHING = frozenset()


def leaves(table: type[BaseModel] = Config, prefix: str = ""):
    for name, field in table.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load("emoji", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "Config" not in message  # no name of a class
    return message


# --- recipes -------------------------------------------------------------------------------------


def test_every_recipe_loads_under_its_own_name():
    assert "emoji" in config.recipe_names()
    for name in config.recipe_names():
        assert load(name).run.recipe == name


def test_a_recipe_may_be_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[rollout]\nsteps = 7\n")
    assert load(str(file)) == parse({"run": {"recipe": "mine"}, "rollout": {"steps": 7}})
    file.write_text('[run]\nrecipe = "named"\n')
    assert load(str(file)).run.recipe == "named"


def test_recipes_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"^no recipe 'emojy'; did you mean 'emoji'\?$"):
        load("emojy")
    with pytest.raises(ConfigError, match=r"^no recipe 'zzz'; valid: .*emoji"):
        load("zzz")
    file = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=f"^cannot read recipe {file}: No such file"):
        load(str(file))
    for content in (b"[run", b"\xff\xfe", b"steps = = 3"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^recipe {file} is not valid TOML: "):
            load(str(file))
    file.write_bytes(b"run = 3")
    with pytest.raises(ConfigError, match=r"^run = 3: 'run' is a table; set a key of it"):
        load(str(file))


# --- keys and values -----------------------------------------------------------------------------


def test_every_key_has_a_description_and_a_valid_default():
    keys = dict(leaves())
    assert len(keys) > 60
    for key, field in keys.items():
        assert len((field.description or "").split()) > 1, key
        assert not field.is_required(), key
    assert parse({}) == Config()


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load("emoji").run.seed = 3


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("run.updats=3", "'run.updats'; did you mean 'run.updates'?"),
        ("evalute.every=3", "'evalute'; did you mean 'evaluate'?"),
        ("rollout.learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("rollout.learning_rat=1", "did you mean 'optimizer.learning_rate'?"),
        ("rollout.keep=1", "did you mean 'drift.subset.keep' or 'checkpoint.keep'?"),
        ("drift.noise.weight=1", "did you mean 'drift.shaping.weight'?"),
        ("drift.foo.bar=1", "'drift.foo'; valid: drift.noise, drift.shaping, drift.subset"),
        ("checkpoint.zzzz=1", "'checkpoint.zzzz'; valid: checkpoint.every, checkpoint.keep"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, hint):
    message = refused(override)
    assert message.startswith("unknown configuration key '")
    assert message.endswith(hint)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.updates=0", "run.updates = 0: input should be greater than or equal to 1"),
        ("run.updates=2.5", "run.updates = 2.5: input should be a valid integer"),
        ("run.updates=true", "run.updates = True: input should be a valid integer"),
        ("run.updates=many", "run.updates = 'many': input should be a valid integer"),
        ("run.updates=", "run.updates = '': input should be a valid integer"),
        ("run.seed=-1", "run.seed = -1: input should be greater than or equal to 0"),
        ("run.backend=3", "run.backend = 3: input should be a valid string"),
        ("rollout.train_last_step=1", "rollout.train_last_step = 1: input should be a valid bool"),
        ("rollout.noise_level=0", "rollout.noise_level = 0: input should be greater than 0"),
        ("rollout.noise_level=inf", "rollout.noise_level = inf: input should be a finite number"),
        ("optimizer.beta1=1.0", "optimizer.beta1 = 1.0: input should be less than 1"),
        ("optimizer.beta1=nan", "optimizer.beta1 = nan: input should be"),
        ("drift.noise.mix=nan", "drift.noise.mix = nan: input should be"),
        ("drift.subset.rule=windw", "'windw': not a valid choice; did you mean 'window'?"),
        ("drift.shaping.gate=7", "valid: above_base, above_mean, none, soft"),
        ("drift.subset=window", "'drift.subset' is a table; set a key of it, as drift.subset.rule"),
        ("prompts.names=owl", "prompts.names = 'owl': input should be a list, as ['a', 'b']"),
        ("prompts.names=[1]", "prompts.names.0 = 1: input should be a valid string"),
        ("adapter.targets=[]", "adapter.targets = []: "),
        ("rollout.window_range=[0.5]", "rollout.window_range = [0.5]: too few values"),
        ("rollout.window_range=[0.5, 2.0]", "rollout.window_range.1 = 2.0: input should be less"),
        ("rollout.window_range=[0.5, 0.5]", "rollout: window_range must rise, not [0.5, 0.5]"),
        ("rollout.window=11", "rollout: window = 11 does not fit: window_range = ["),
        ("objective.clip_low=1.0", "objective.clip_low = 1.0: input should be less than 1"),
        ("drift.noise.tau1=0.9", "drift.noise: tau1 = 0.9 must be below tau2 = 0.9"),
        ("reward.terms.embedded=0", "reward: terms needs at least one reward with a weight other"),
        ("reward.terms={}", "reward: terms needs at least one reward with a weight other"),
        ("reward.terms.jpeg=nan", "reward.terms.jpeg = nan: input should be a finite number"),
        ("reward.terms.jpeg=much", "reward.terms.jpeg = 'much': input should be a valid number"),
        ("reward.terms=3", "reward.terms = 3: input should be a valid dictionary"),
        ("evaluate.features=[]", "evaluate.features = []: "),
        ('evaluate.features=["clip", "clip"]', "evaluate.features: 'clip' is named twice"),
        ("evaluate.features=3", "evaluate.features = 3: input should be a list"),
        ("evaluate.features_options.clip.path=w", "features_options.clip: no such features; feat"),
    ],
)
def test_a_bad_value_is_reported_with_its_key(override, message):
    assert message in refused(override)


def test_checks_that_span_two_keys():
    gate, combine = "drift.shaping.gate=above_base", "reward.combine=group_zscore"
    assert "gate = 'above_base' compares with a weighted sum" in refused(gate, combine)
    load("emoji", [gate])
    load("emoji", [combine])
    several = 'evaluate.features=["clip", "lpips"]'
    assert "evaluate: features_options.path: of which features? Write features_options.NAME" in (
        refused(several, "evaluate.features_options.path=w")
    )
    assert "drift.subset: rule = 'window' needs keep" in refused("drift.subset.rule=window")
    load("emoji", ["drift.subset.rule=window", "drift.subset.keep=24"])
    assert refused("drift.subset.keep=25") == (
        "drift.subset.keep = 25 is more than rollout.group_size = 24"
    )
    cps = "rollout.kernel=cps"
    assert "noise_level = 1.5 is above 1" in refused(cps, "rollout.noise_level=1.5")
    load("emoji", [cps, "rollout.noise_level=1.0"])
    load("emoji", ["rollout.noise_level=1.5"])


@pytest.mark.parametrize(
    ("bounds", "last", "steps"), [((0.2, 0.8), False, 6), ((0.6, 1), False, 3), ((0.6, 1), True, 4)]
)
def test_a_window_must_fit_into_the_steps_of_its_range_that_can_be_trained(bounds, last, steps):
    rollout = {"steps": 10, "window_range": list(bounds), "train_last_step": last}
    parse({"rollout": rollout | {"window": steps}})
    expected = f"of 10 steps holds {steps} that can be trained$"
    with pytest.raises(ConfigError, match=rf"^rollout: window = {steps + 1} .*{expected}"):
        parse({"rollout": rollout | {"window": steps + 1}})


@pytest.mark.parametrize("key", [key for key, _ in leaves()])
def test_every_key_can_be_overridden_and_is_checked(key):
    value = load("emoji")
    for part in key.split("."):
        value = getattr(value, part)
    if value is not None:
        tables: dict = {}
        inner = tables
        for part in key.split(".")[:-1]:
            inner = inner.setdefault(part, {})
        plain = list(value) if isinstance(value, tuple) else value
        literal = tomli_w.dumps({"v": {"w": plain} if isinstance(plain, dict) else plain})
        if not isinstance(plain, dict):
            assert load("emoji", [f"{key}={literal.partition('=')[2].strip()}"]) == load("emoji")
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load("emoji", [f"{key}={{wrong = [1979-05-27]}}"])


# --- overrides -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["updates=3", "run.updates", "=3", "run.=3", ".x=3", "a..b=3", ""])
def test_an_override_that_is_none(text):
    assert refused(text) == f"--set {text}: write table.key=value, for example run.updates=20"


def test_an_override_below_a_value():
    assert refused("run.updates.x=3") == "--set run.updates.x=3: 'updates' is a value, not a table"


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("run.updates=20", lambda c: c.run.updates, 20),
        (" run.updates = 20 ", lambda c: c.run.updates, 20),
        ("run.backend=cpu", lambda c: c.run.backend, "cpu"),
        ('run.backend="cpu"', lambda c: c.run.backend, "cpu"),
        ("model.path=weights/a=b.safetensors", lambda c: c.model.path, "weights/a=b.safetensors"),
        ("optimizer.learning_rate=1e-4", lambda c: c.optimizer.learning_rate, 1e-4),
        ("optimizer.learning_rate=1", lambda c: c.optimizer.learning_rate, 1.0),
        ("rollout.train_last_step=true", lambda c: c.rollout.train_last_step, True),
        ('prompts.names=["owl", "cat face"]', lambda c: c.prompts.names, ("owl", "cat face")),
        ("prompts.names=[]", lambda c: c.prompts.names, ()),
        ("rollout.window_range=[0, 1]", lambda c: c.rollout.window_range, (0.0, 1.0)),
        ("drift.subset.keep=8", lambda c: c.drift.subset.keep, 8),
    ],
)
def test_how_a_value_is_read(text, read, value):
    got = read(load("emoji", [text]))
    assert got == value
    assert type(got) is type(value)


def test_the_last_override_wins():
    assert load("emoji", ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("reward.terms.jpeg=2", "jpeg"),
        ("reward.terms.my_pack.rewards:sharp=2", "my_pack.rewards:sharp"),
        ('reward.terms."my_pack.rewards:sharp"=2', "my_pack.rewards:sharp"),
        ("reward.terms.'a.b.c:d'=2", "a.b.c:d"),
    ],
)
def test_the_name_of_a_reward_may_hold_dots(text, name):
    assert load("emoji", [text]).reward.terms == {name: 2.0}
    both = load("emoji", ["reward.terms.embedded=7", text])
    assert both.reward.terms == {"embedded": 7.0, name: 2.0}


# --- comparing and writing -----------------------------------------------------------------------


def test_differences_are_listed_by_key():
    old = load("emoji")
    new = load("emoji", ["run.seed=4", "drift.subset.keep=8", "reward.terms.a.b:c=1"])
    expected = [
        "drift.subset.keep: unset -> 8",
        f"reward.terms: {old.reward.terms} -> {{'a.b:c': 1.0}}",
        "run.seed: 0 -> 4",
    ]
    assert differences(old, new, NOTHING) == expected
    assert differences(old, new, frozenset({"reward.terms", "run.seed"})) == expected[:1]
    assert differences(new, old, frozenset({"reward.terms", "run.seed"})) == [
        "drift.subset.keep: 8 -> unset"
    ]
    assert differences(old, old, NOTHING) == []


def through_toml(value: Config) -> Config:
    return parse(tomllib.loads(tomli_w.dumps(to_tables(value))))


def test_every_recipe_survives_toml():
    for name in config.recipe_names():
        assert through_toml(load(name)) == load(name)


@given(
    seed=st.integers(0, 2**63 - 1),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    keep=st.none() | st.integers(2, 24),
    terms=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.floats(1e-9, 1e9) | st.integers(1, 9),
        min_size=1,
    ),
    window=st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)),
)
def test_any_configuration_survives_toml(seed, rate, text, names, keep, terms, window):
    value = parse(
        {
            "run": {"seed": seed},
            "optimizer": {"learning_rate": rate},
            "prompts": {"names": names, "source": text},
            "drift": {"subset": {"keep": keep}},
            "reward": {"terms": terms},
            "rollout": {"window_range": list(window)},
        }
    )
    assert through_toml(value) == value
    assert differences(value, through_toml(value), NOTHING) == []


def test_closest():
    assert config.closest("owll", ["owl", "cat"]) == "; did you mean 'owl'?"
    assert config.closest("zzz", ["owl", "cat"]) == "; valid: cat, owl"


@pytest.mark.parametrize("source", ["mine.txt", "folder/mine.jsonl"])
def test_a_source_of_prompts_is_a_file_by_its_ending(source):
    assert PromptsConfig(source=source).file == Path(source)


def test_the_sets_that_ship_are_no_files():
    assert [name for name in prompts.NAMED if PromptsConfig(source=name).file is not None] == []
