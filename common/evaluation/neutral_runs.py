"""Neutral runs: a control is their only reward, so that only noise moves the model.

Their images are scored by what the other runs of a comparison maximise, as by held-out scorers: a
neutral run then has every measure that the others have.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from common.config import RewardConfig
from common.errors import listed
from common.evaluation import measured_runs, records, suggested
from common.evaluation.measured_runs import BASE, Measured, Run, StudyError
from common.evaluation.records import HELD_OUT, Protocol, Record, Variant
from common.runs import checkpoint
from common.runs.directory import RunDirectory


def read(measured: Measured, until: int | None = None) -> list[Run]:
    """The neutral runs beside those that were read, with the measures of the others.

    until: measurements after later updates are left out. A run has no "reward" where no weighted
    sum of held-out scorers is what the others maximise: see `weights`.

    Raises StudyError for one that was not measured as the others were.
    """
    return [_run(directory, measured, until) for directory in measured.neutral]


def weights(reward: RewardConfig) -> dict[str, float]:
    """The weights with which held-out scorers add up to a reward; {} where none do.

    Held-out scorers have default options, and a mean has no floors, ceilings or worst term.
    """
    limits = reward.floors or reward.ceilings
    options = any(reward.options.get(name) for name in reward.terms)
    worst = reward.combine == "minimum" and len(reward.terms) > 1
    return {} if limits or options or worst else dict(reward.terms)


def _run(directory: RunDirectory, measured: Measured, until: int | None) -> Run:
    how, terms = measured.protocol, weights(measured.runs[0].directory.config.reward)
    needed = {*how.scorers, *terms}
    as_others: dict[Protocol, dict[Variant, Record]] = {}
    others: list[Protocol] = []
    for record in records.load(directory):
        own, variant = record.protocol, record.variant
        if replace(own, scorers=how.scorers) == how and needed <= {*own.scorers}:
            if not variant.changes and (until is None or variant.update <= until):
                as_others.setdefault(own, {})[variant] = record
        elif own.split == how.split:
            others.append(own)
    most = max(as_others.values(), key=len, default={})
    if BASE not in most or len(most) == 1:
        raise StudyError(_unmeasured(directory, measured, tuple(terms), others, until))
    return Run(directory, {v: _as_others(record, how, terms) for v, record in most.items()})


def _as_others(record: Record, how: Protocol, terms: Mapping[str, float]) -> Record:
    """A record under the protocol of the others, with their reward in the place of its own."""
    names = {name for name in how.measures if name != "reward"}
    by_prompt = {name: record.by_prompt[name] for name in record.by_prompt if name in names}
    if terms:
        scores = [w * np.array(record.by_prompt[HELD_OUT + name]) for name, w in terms.items()]
        by_prompt["reward"] = tuple(np.sum(scores, axis=0).tolist())
    return replace(record, protocol=how, by_prompt=by_prompt)


def _unmeasured(
    directory: RunDirectory,
    measured: Measured,
    terms: tuple[str, ...],
    others: list[Protocol],
    until: int | None,
) -> str:
    """Why a neutral run has not the measures of the others, and the command that measures them."""
    how, path = measured.protocol, directory.path
    there = [n for n in checkpoint.updates(directory.checkpoints) if until is None or n <= until]
    if not there:
        upto = "" if until is None else f" up to update {until}"
        return f"the neutral run {path} has no checkpoint{upto} to measure"
    for own in others[-1:]:
        prompts = own.prompts if len(own.prompts) == len(how.prompts) else how.prompts
        fixed = replace(how, model=own.model, sampler=own.sampler, prompts=prompts)
        if fixed != how:  # no option of `drift eval` makes them the same
            difference = measured_runs.difference(how, fixed)
            return f"{measured.runs[0].path} and {path} cannot be compared: {difference}"
    updates = {variant.update for run in measured.runs for variant in run.records}
    variants = [BASE, *(Variant(n) for n in there if n in updates or not updates & {*there})]
    wanted = replace(how, scorers=(*how.scorers, *terms))
    like = [replace(record, protocol=wanted) for record in measured.runs[0].records.values()]
    command = suggested.eval_run(directory, like, variants)
    if any(replace(own, scorers=how.scorers) == how for own in others):
        names = listed(name for name in wanted.scorers if name not in others[-1].scorers)
        return (
            f"the neutral run {path} was not scored by {names}, as the others were: run `{command}`"
        )
    return f"the neutral run {path} was not measured as the others were: run `{command}`"
