"""Weights & Biases, online or into the run's folder (`track.offline`, or WANDB_MODE=offline)."""

from collections.abc import Mapping
from pathlib import Path

from common.tracking import names
from common.tracking.opening import Comparison, Opening

UPDATE = "update"
"""The horizontal axis of all curves: a resumed run may repeat updates."""


SENDING_NOTHING = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE that need no login."""


class WeightsAndBiases:
    """One run; a resumed one goes on under the same id."""

    def __init__(self, how: Opening) -> None:
        import wandb

        self._wandb = wandb
        sends = not how.offline and wandb.setup().settings.mode not in SENDING_NOTHING
        if sends and not wandb.login(prompt=False):
            raise RuntimeError("no login: `wandb login` makes one, track.offline needs none")
        self._run = wandb.init(
            project=how.project,
            name=how.name,
            id=how.identity,
            resume="allow",
            dir=str(how.folder.parent),  # the library adds a folder `wandb`
            mode="offline" if how.offline else None,
            config=dict(how.config),
            allow_val_change=True,
            settings=wandb.Settings(console="off", disable_git=True, save_code=False),
        )
        self._run.define_metric(UPDATE, hidden=True)
        self._run.define_metric("*", step_metric=UPDATE)

    def numbers(self, values: Mapping[str, float], update: int) -> None:
        """Log them with their update."""
        self._run.log({**values, UPDATE: update})

    def picture(self, name: str, file: Path, update: int) -> None:
        """Log an image."""
        image = self._wandb.Image(str(file), caption=f"update {update}")
        self._run.log({name: image, UPDATE: update})

    def result(self, rows: Comparison, report: Path) -> None:
        """Log the table and the report, and put the table into the summary."""
        for name, row in rows.items():
            for kind, value in row.items():
                self._run.summary[f"result/{name}/{kind}"] = value
        table = self._wandb.Table(columns=list(names.COLUMNS), data=names.cells(rows))
        page = self._wandb.Html(report.read_text(encoding="utf-8"), inject=False)
        self._run.log({"result/table": table, "result/report": page})

    def close(self, *, failed: bool) -> None:
        """Send what is left."""
        self._run.finish(exit_code=int(failed))
