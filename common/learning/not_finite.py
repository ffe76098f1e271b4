"""What to change when training gives numbers that are not finite."""

from common.config import Config
from common.errors import NotFiniteError

__all__ = ["explain"]


def explain(error: NotFiniteError, stage: str, config: Config, update: int) -> NotFiniteError:
    """The error with the settings that make it less likely, in one line.

    Args:
        error: what was raised.
        stage: what was done.
        config: the configuration of the run.
        update: updates that were finished before it.
    """
    step, dtype = config.optimizer, config.model.dtype
    advice = []
    if update:
        advice += [
            f"a lower optimizer.learning_rate ({step.learning_rate:g})",
            f"a lower optimizer.max_grad_norm ({step.max_grad_norm:g})",
        ]
    if dtype != "float32":
        wider = "'bfloat16' or 'float32'" if dtype == "float16" else "'float32'"
        advice.append(f"model.dtype = {wider} ('{dtype}')")
    if not advice:
        advice = ["other weights: this model has not been trained yet"]
    return NotFiniteError(f"{error}, in {stage} after update {update}; try {', or '.join(advice)}")
