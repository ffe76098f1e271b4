"""Recipes extend each other key by key; each says what it is; one edit reaches every variant."""

import shutil
import tomllib

import pytest

from common import config
from common.config import ConfigError, load, read_recipe, recipes, to_tables
from common.runs.directory import RunDirectory

NAMES = config.recipe_names()
BASES = {"emoji-grpo", "sd15-aesthetic-ddpo", "sd35m-pickscore-grpo", "flux-dev-pickscore-grpo"}

OFF = {
    "noise": ("drift.noise.strength", 0.0),
    "subset": ("drift.subset.rule", "none"),
    "shaping": ("drift.shaping.mode", "none"),
}


def flat(name, *overrides):
    return config.flatten(to_tables(load(name, overrides)))


def unlike(one, other):
    """The keys in which two recipes differ, besides their names."""
    a, b = flat(one), flat(other)
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)} - {"run.recipe"}


@pytest.fixture
def write(tmp_path):
    def call(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return call


# --- one file over another -----------------------------------------------------------------------


def test_tables_merge_key_by_key_and_reward_terms_are_replaced(write):
    write(
        "base.toml",
        'description = "the base"\n[run]\nrecipe = "named"\nupdates = 7\n'
        "[rollout]\nsteps = 6\ngroup_size = 8\n[reward.terms]\nembedded = 1.0\n"
        '[reward]\non_error = "drop"\n',
    )
    path = write(
        "deep/child.toml",
        'extends = "../base.toml"\n[rollout]\nsteps = 9\n[reward.terms]\njpeg = 2.0\n',
    )
    child = load(path)
    assert (child.run.recipe, child.run.updates) == ("child", 7)  # its own name, not the base's
    assert (child.rollout.steps, child.rollout.group_size) == (9, 8)
    assert (child.reward.terms, child.reward.on_error) == ({"jpeg": 2.0}, "drop")
    recipe = read_recipe(path)
    assert recipe.description == ""  # a word on the base is none on the child
    assert [name.rpartition("/")[2] for name in recipe.extends] == ["base.toml"]


def test_a_file_may_extend_a_shipped_recipe_that_extends_another(write):
    path = write("mine.toml", 'extends = "emoji-noise"\n[run]\nupdates = 3\n')
    assert read_recipe(path).extends == ("emoji-noise", "emoji", "emoji-grpo")
    expected = flat("emoji-noise", "run.updates=3", "run.recipe=mine")
    assert flat(path) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('extends = "emojy"', "a.toml: extends = 'emojy': no recipe 'emojy'; did you mean 'emoji'"),
        ('extends = "no.toml"', r"a.toml: extends = 'no.toml': cannot read recipe .*No such file"),
        ("extends = 3", "a.toml: extends = 3 must be text"),
        ('description = ["x"]', r"a.toml: description = \['x'\] must be text"),
        ('extends = "a.toml"', r"a.toml extends itself: \S*/a.toml -> \S*/a.toml$"),
        ('extends = "sub/../a.toml"', "a.toml extends itself: "),
        ('exends = "emoji"', "unknown configuration key 'exends'"),
    ],
)
def test_what_cannot_be_extended_is_reported_in_one_line(write, text, says):
    path = write("a.toml", text)
    write("sub/empty.toml", "")
    with pytest.raises(ConfigError, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_cycle_of_two_is_reported_with_its_way_round(write):
    write("b.toml", 'extends = "a.toml"')
    with pytest.raises(ConfigError, match=r"a.toml -> \S*b.toml -> \S*a.toml$"):
        load(write("a.toml", 'extends = "b.toml"'))


def test_a_base_that_is_no_toml_is_named(write):
    write("b.toml", "[run")
    with pytest.raises(ConfigError, match=r"recipe \S*b.toml is not valid TOML"):
        load(write("a.toml", 'extends = "b.toml"'))


# --- the shipped ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is_and_where_it_is_from(name):
    recipe = read_recipe(name)
    assert 3 < len(recipe.description.split()) < 16
    assert len(recipe.source.split()) > 1
    assert recipe.extends[-1] in BASES if recipe.extends else name in BASES


def test_all_variants_are_there():
    singles, pairs = ["noise", "subset", "shaping"], ["noise-subset", "noise-shaping"]
    others = ["grpo", "kl", "gardo", "pods", "random", "strict", "shuffled", "subset-shaping"]
    assert set(NAMES) >= {"emoji", *(f"emoji-{v}" for v in (*singles, *pairs, *others))}


@pytest.mark.parametrize("name", [name for name in NAMES if set(name.split("-")[1:]) & set(OFF)])
def test_each_of_the_factorial_switches_off_what_it_does_not_name(name):
    off = {OFF[mechanism] for mechanism in OFF if mechanism not in name.split("-")[1:]}
    values = flat(name)
    assert {(key, values[key]) for key, _ in OFF.values() if (key, values[key]) in off} == off
    assert unlike(name, "emoji") == {key for key, _ in off}


@pytest.mark.parametrize(
    ("name", "base", "keys"),
    [
        ("emoji-kl", "emoji-grpo", {"objective.kl_weight"}),
        (
            "emoji-gardo",
            "emoji-grpo",
            {
                *("drift.shaping.mode", "drift.shaping.weight", "drift.shaping.potential"),
                "objective.statistics",
            },
        ),
        ("emoji-pods", "emoji-grpo", {"drift.subset.rule", "drift.subset.keep"}),
        ("emoji-random", "emoji", {"drift.subset.rule", "drift.subset.keep"}),
        ("emoji-strict", "emoji", {"drift.shaping.mode"}),
        ("emoji-shuffled", "emoji", {"drift.shaping.shuffle"}),
    ],
)
def test_each_other_method_changes_what_it_is_about_and_nothing_else(name, base, keys):
    assert unlike(name, base) == keys


def test_recipes_named_after_a_paper_do_as_its_code_does():
    """Flow-GRPO's KL and averaging, and the gradient of guidance; DDPO has its own."""
    roots = {"Flow-GRPO": set(), "DDPO": set()}
    for name in NAMES:
        recipe = load(name)
        after = read_recipe(name).source.partition(",")[0].partition(" with")[0]
        if after not in roots:
            continue
        guided = recipe.rollout.guidance != 1
        roots[after].add(guided)
        objective = recipe.objective
        did = (objective.kl_form, objective.zero_advantage, recipe.rollout.guidance_gradient)
        expected = {
            "Flow-GRPO": ("flow_grpo", "drop", "conditional" if guided else did[2]),
            "DDPO": ("transition", "keep", "both"),
        }
        assert did == expected[after], name
    assert roots == {"Flow-GRPO": {True, False}, "DDPO": {True}}
    gardo = load("emoji-gardo")
    assert (gardo.drift.shaping.potential, gardo.objective.statistics) == ("nearest", "none")


def test_those_that_keep_a_number_of_samples_keep_the_same():
    assert load("emoji-pods").drift.subset.keep == load("emoji-random").drift.subset.keep


@pytest.mark.parametrize(
    ("file", "old", "new", "key", "value", "reaches"),
    [
        ("emoji-grpo", "group_size = 24", "group_size = 30", "rollout.group_size", 30, "emoji"),
        ("emoji", "weight = ", "weight = 9", "drift.shaping.weight", None, "emoji-sh"),
    ],
)
def test_one_edit_reaches_all_that_extend(
    tmp_path, monkeypatch, file, old, new, key, value, reaches
):
    folder = tmp_path / "recipes"
    shutil.copytree(config.RECIPES, folder)
    monkeypatch.setattr(recipes, "RECIPES", folder)
    before = {name: flat(name)[key] for name in NAMES}
    text = (folder / f"{file}.toml").read_text()
    assert old in text
    (folder / f"{file}.toml").write_text(text.replace(old, new))
    reached = [name for name in NAMES if name.startswith(reaches)]
    assert len(reached) >= 2
    for name in reached:
        assert flat(name)[key] != before[name]
        assert value is None or flat(name)[key] == value


# --- configurations from before there were these keys --------------------------------------------


def test_a_run_directory_without_the_newer_keys_opens_and_resumes(tmp_path):
    run = RunDirectory.create(tmp_path / "run", load("emoji"), {})
    file, text = run.path / "config.toml", []
    newer = {"split", "limit", "share", "shuffle"}
    table = ""
    for line in (run.path / "config.toml").read_text().splitlines():
        table = line if line.startswith("[") else table
        key = line.partition(" ")[0]
        in_shaping = table == "[drift.shaping]" and key in ("statistics", "training_schedule")
        if key not in newer and not in_shaping:
            text.append(line)
    file.write_text("\n".join(text))
    tables = tomllib.loads(file.read_text())
    assert not newer & (tables["prompts"].keys() | tables["drift"]["noise"].keys())
    assert "statistics" not in tables["drift"]["shaping"]
    old = RunDirectory.open(run.path)
    assert old.config == load("emoji")
    old.check_resumable(load("emoji"))
