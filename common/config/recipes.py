"""Recipe files: TOML tables of settings, with a description, that may extend another recipe.

At the top of a file, before its tables: `description` in words, `source` (the paper of the
method) and `extends`, the name of a shipped recipe or a path relative to the file. The tables of
a file go over those of what it extends, as `common.config.layers` says.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import reading
from common.config import layers
from common.config.errors import ConfigError, closest

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A recipe file, resolved.

    tables: the settings of the whole chain, nested. extends: the recipes that the file extends,
    nearest first. description and source: the file's own, "" where it has none.
    """

    tables: dict[str, Any]
    description: str
    source: str
    extends: tuple[str, ...]


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read(recipe: str) -> Recipe:
    """A recipe, merged with the recipes that it extends.

    Args:
        recipe: a shipped name, or a path to a TOML file.

    Raises:
        ConfigError: one line: the file cannot be read or is not TOML; the name is unknown (with
            the nearest one); the recipe extends itself (with the whole cycle); or `description`,
            `source` or `extends` is not text.
    """
    return _resolve(_path(recipe, Path()), ())


def _resolve(path: Path, children: tuple[Path, ...]) -> Recipe:
    if path.resolve() in [child.resolve() for child in children]:
        cycle = " -> ".join(_name(step) for step in (*children, path))
        raise ConfigError(f"recipe {_name(path)} extends itself: {cycle}")
    tables = _parse(path)
    words = {key: tables.pop(key, "") for key in ("description", "source", "extends")}
    for key, text in words.items():
        if not isinstance(text, str):
            raise ConfigError(f"recipe {_name(path)}: {key} = {text!r} must be text")
    extends: tuple[str, ...] = ()
    if parent := words["extends"]:
        try:
            base = _resolve(_path(parent, path.parent), (*children, path))
        except _NoRecipeError as error:
            raise ConfigError(f"recipe {_name(path)}: extends = '{parent}': {error}") from None
        extends = (_name(_path(parent, path.parent)), *base.extends)
        # The extending file names the run.
        if isinstance(run := base.tables.get("run"), dict):
            run.pop("recipe", None)
        tables = layers.merged(base.tables, tables)
    return Recipe(tables, words["description"], words["source"], extends)


class _NoRecipeError(ConfigError):
    """A recipe that does not exist; the recipe that extends it adds its own name."""


def _path(recipe: str, folder: Path) -> Path:
    """The file of a recipe; folder: what a path is relative to."""
    if recipe.endswith(".toml"):
        return folder / recipe
    if recipe not in recipe_names():
        if (folder / recipe / "config.toml").is_file():
            way = f"drift run --resume --out {shlex.quote(recipe)}"
            raise _NoRecipeError(f"'{recipe}' is a run, and no recipe; `{way}` goes on with it")
        raise _NoRecipeError(f"no recipe '{recipe}'{closest(recipe, recipe_names())}")
    return RECIPES / f"{recipe}.toml"


def _parse(path: Path) -> dict[str, Any]:
    try:
        return reading.toml_document(reading.content(path))
    except OSError as error:
        raise _NoRecipeError(f"cannot read recipe {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML, or nested without end
        raise ConfigError(f"recipe {path} is not valid TOML: {error}") from None


def _name(path: Path) -> str:
    """A shipped recipe by its name, any other by its path."""
    return path.stem if path.parent == RECIPES else str(path)
