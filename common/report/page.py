"""The report of a run: one HTML page of its records; it computes no new measures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.audit import watch
from common.config import Config, Table
from common.evaluation.families import measures_for
from common.evaluation.records import HELD_OUT
from common.report import attainable, by_prompt, course, gallery, words
from common.report.plots import RATIO_TOLERANCE, Records, column, plots
from common.runs import files
from common.runs.directory import BEGAN, ENDED, SECONDS, STARTS, RunDirectory

HEADLINE = (
    ("reward", "Reward", "what training maximises", False),
    ("alignment_heldout", "Held-out alignment", "10 × cosine, by a scorer not trained on", False),
    ("diversity", "Diversity", "mean cosine distance between images of a prompt", True),
    ("high_frequency", "High-frequency energy", "rises when images degrade", True),
)
"""(key of an evaluation, name, meaning, whether to show the share of the base's value)."""


def build(run: RunDirectory) -> Path:
    """Write the report of a run in any state, and return its path.

    The same run gives the same bytes. Raises RunError when the run's logs are damaged, and
    files.WriteError when the report cannot be written.
    """
    page = render(run).encode(errors="replace")
    with files.os_errors_as(f"write {run.report}"):
        files.write_whole(run.report, page)
    return run.report


def render(run: RunDirectory) -> str:
    """The page as text: HTML with its style, pictures and plots inside."""
    metrics, evaluations, audits = run.metrics(), course.evaluations(run), run.audits()
    how = course.course(run, metrics, evaluations, audits)
    images = words.count(int(np.nansum(column(metrics, "images"))), "image")
    base = evaluations[0] if evaluations else None
    tuned = evaluations[-1] if len(evaluations) > 1 else None
    return words.template("report.html.j2").render(
        style=words.style("report.css"),
        config=run.config,
        backend=_backend(run),
        status=how.status,
        failure=how.failure,
        effort=f"{images}, {course.duration(how.seconds)}",
        command=course.command(run),
        limits=attainable.of_run(run),
        base=base,
        tuned=tuned,
        headline=headline(base, tuned),
        gallery=gallery.gallery(run, base, tuned),
        earlier=gallery.earlier(run, evaluations[1:-1], _measures(run.config)),
        by_prompt=by_prompt.table(base, tuned),
        plots=plots(metrics, evaluations),
        warnings=[*warnings(metrics, evaluations), *watch.alarms(audits)],
        costs=_costs(run.config, metrics, base, tuned),
        tables=_tables(run.config, Config()),
        environments=_environments(run),
    )


# --- warnings ------------------------------------------------------------------------------


def warnings(metrics: Records, evaluations: Records) -> list[str]:
    """Warnings from the records, one or two sentences each."""
    return _outcome_warnings(evaluations) + _update_warnings(metrics)


def _outcome_warnings(evaluations: Records) -> list[str]:
    """Warnings about the images, from the first and the last evaluation."""
    if len(evaluations) < 2:
        return []

    def ends(key: str) -> tuple[float, float]:
        values = column(evaluations, key)
        return float(values[0]), float(values[-1])

    sentences = []
    before, after = ends("high_frequency")
    if after > 1.1 * before:
        sentences.append(
            f"High-frequency energy rose by {after / before - 1:.0%}: the images may be degrading. "
            "Look for grids or speckle; a smaller learning rate, a KL weight or averaged weights "
            "(EMA) help."
            if before > 0
            else "High-frequency energy rose from 0: the images may be degrading."
        )
    (reward, rewarded), (aligned, realigned) = ends("reward"), ends("alignment_heldout")
    if rewarded > reward and realigned < aligned:
        sentences.append(
            f"The reward rose by {rewarded - reward:.2f} while held-out alignment fell by "
            f"{aligned - realigned:.2f}: reward hacking. The images please the trained scorer, "
            "not the prompt."
        )
    if rewarded <= reward:
        sentences.append(
            f"The reward did not rise ({reward:.2f} to {rewarded:.2f}): a learning rate that is "
            "too high or too low, or too few samples for each prompt."
        )
    before, after = ends("diversity")
    if after < 0.5 * before:
        sentences.append(
            f"Diversity fell to {after / before:.0%} of the base model's: the images of a prompt "
            "are collapsing into one. More shaping weight or fewer updates help."
        )
    return sentences


def _update_warnings(metrics: Records) -> list[str]:
    """Warnings about the computation, from the updates."""
    sentences = []
    ratio, update = column(metrics, "objective/ratio_max"), column(metrics, "update")
    if (above := ratio > RATIO_TOLERANCE).any():
        sentences.append(
            f"Before the first optimizer step of {words.count(int(above.sum()), 'update')}, first "
            f"of update {update[above][0]:.0f}, ratios were up to {np.nanmax(ratio):.1e} away from "
            f"1 (float32 rounding stays below {RATIO_TOLERANCE:.0e}): rollout and update do not "
            "compute the same probabilities."
        )
    if (dropped := column(metrics, "group/invalid")).any() and np.nansum(dropped) > 0:
        sentences.append(
            f"{words.count(int(np.nansum(dropped)), 'sample')} had no finite reward or features "
            "and were left out."
        )
    if (column(metrics, "group/zero_std") == 1).any():
        silent = int((column(metrics, "group/zero_std") == 1).sum())
        sentences.append(
            f"In {words.count(silent, 'update')} every group had equal rewards, so "
            "nothing could be learned from them."
        )
    if (fallback := column(metrics, "subset/fallback")).size and np.nansum(fallback) > 0:
        sentences.append(
            f"The subset rule removed the signal of {np.nanmean(fallback):.0%} of the groups, "
            "which were used whole instead: the reward is probably discrete, and another rule "
            "fits it."
        )
    return sentences


def _measures(config: Config) -> list[tuple[str, str]]:
    """(key of an evaluation, its name) of what a line about an evaluation shows."""
    keys = {"reward", "diversity"}
    keys |= {"alignment_heldout"} if measures_for(config.model.family).HAS_ALIGNMENT else set()
    return [(key, name) for key, name, _, _ in HEADLINE if key in keys]


def _backend(run: RunDirectory) -> str:
    """The backend of the latest start; if none was recorded, the configured one."""
    latest = run.starts()[-1] if run.starts() else {}
    return str(latest.get("backend", run.config.run.backend))


# --- the headline ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of the headline table, as text."""

    name: str
    meaning: str
    base: str
    tuned: str
    difference: str
    share: str


def headline(base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None) -> list[Line]:
    """The table of base against tuned; [] without an evaluation of the base."""
    if base is None:
        return []
    lines = []
    for key, name, meaning, relative in (*HEADLINE, *_further(base)):
        if key not in base:  # a measure of the emoji model
            continue
        before, after = column([base], key)[0], column([tuned or {}], key)[0]
        places = words.places(before)
        share = f"{after / before:.0%}" if relative and before > 0 else ""
        lines.append(
            Line(
                name,
                meaning,
                words.number(before, places),
                words.number(after, places),
                words.number(after - before, places, signed=True),
                share if math.isfinite(after) else "",
            )
        )
    return lines


def _further(base: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Lines as in HEADLINE of the held-out rewards and of diversity in further features."""
    lines = []
    for key in base:
        if key.startswith(HELD_OUT):
            name = key.removeprefix(HELD_OUT)
            lines.append((key, name, "a reward that is not trained on", False))
        elif key.startswith("diversity/"):
            name = key.removeprefix("diversity/")
            lines.append((key, f"Diversity, {name}", "the same in other features", True))
    return lines


@dataclass(frozen=True)
class Cost:
    """The cost of one reward and its raw values, as text."""

    name: str
    weight: str
    base: str
    tuned: str
    seconds: str
    share: str


def _costs(
    config: Config,
    metrics: Records,
    base: Mapping[str, Any] | None,
    tuned: Mapping[str, Any] | None,
) -> list[Cost]:
    """A line for each reward, and one for their sum if there are several."""
    seconds = {
        name: np.nansum(column(metrics, f"time/reward/{name}")) for name in config.reward.terms
    }
    whole = np.nansum(column(metrics, "seconds"))
    if not metrics or not whole or not sum(seconds.values()):
        return []
    ends = {}
    for name in seconds:
        both = (column([record or {}], f"reward/term/{name}")[0] for record in (base, tuned))
        before, after = map(float, both)
        places = words.places(before)
        ends[name] = (words.number(before, places), words.number(after, places))
    lines = [
        Cost(
            name,
            words.plain(weight),
            ends[name][0],
            ends[name][1],
            f"{seconds[name] / len(metrics):.2f}",
            f"{seconds[name] / whole:.1%}",
        )
        for name, weight in config.reward.terms.items()
    ]
    if len(lines) > 1:
        total = sum(seconds.values())
        lines.append(
            Cost("together", "", "", "", f"{total / len(metrics):.2f}", f"{total / whole:.1%}")
        )
    return lines


# --- configuration and environment ----------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One key of the configuration. default: its default where the value differs, else None."""

    key: str
    value: str
    meaning: str
    default: str | None


def _tables(table: Table, defaults: Table, name: str = "") -> list[tuple[str, list[Setting]]]:
    """(table name, its settings) for a table and those inside it, in the order of declaration."""
    settings, inner = [], []
    for key, field in type(table).model_fields.items():
        value, default = getattr(table, key), getattr(defaults, key)
        if isinstance(value, Table):
            inner += _tables(value, default, f"{name}.{key}" if name else key)
        else:
            changed = words.plain(default) if value != default else None
            meaning = (field.description or "").replace("`", "")
            settings.append(Setting(key, words.plain(value), meaning, changed))
    return ([(name, settings)] if settings else []) + inner


def _environments(run: RunDirectory) -> list[tuple[str, list[tuple[str, str]]]]:
    """(caption, facts) of each start, the latest first, then of the run as a whole.

    Consecutive starts with the same facts are merged.
    """
    groups: list[tuple[list[str], list[tuple[str, str]]]] = []
    for start in run.starts():
        of_this_start = ("update", BEGAN, ENDED, SECONDS)
        facts = _flat({key: value for key, value in start.items() if key not in of_this_start})
        if not groups or groups[-1][1] != facts:
            groups.append(([], facts))
        groups[-1][0].append(str(start.get("update", "?")))
    tables = [(f"Started at update {', '.join(updates)}", facts) for updates, facts in groups]
    times = [(f"after update {start.get('update', '?')}", _took(start)) for start in run.starts()]
    if any(BEGAN in start for start in run.starts()):
        tables.insert(0, ("Starts", times))
    whole = _flat({key: value for key, value in run.environment().items() if key != STARTS})
    return [table for table in (*reversed(tables), ("The whole run", whole)) if table[1]]


def _took(start: Mapping[str, Any]) -> str:
    parts = [str(start.get(BEGAN, "?"))]
    if isinstance(seconds := start.get(SECONDS), int | float) and math.isfinite(seconds):
        parts.append(course.duration(seconds))
    return ", ".join([*parts, str(start.get(ENDED, "no end written down"))])


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (dotted name, text)."""
    flat: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + str(key), words.plain(value)))
    return flat
