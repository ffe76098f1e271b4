"""Calling a reward that somebody else wrote: whatever it does, a number or a clear error.

A score that silently became 0 would be a training signal. So nothing is replaced or guessed.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from common.rewards.registry import Reward


class RewardError(RuntimeError):
    """A reward that failed: which one, how, and on which prompt and sample where that is known."""


def score(
    reward: Reward,
    images: np.ndarray,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    timeout: float,
    on_error: Literal["fail", "drop"],
    describe: Callable[[int], str],
) -> np.ndarray:
    """Call a reward on a copy of the images and check all that it returns.

    Args:
        reward: the callable, with its name.
        images: uint8 [N, H, W, 3].
        prompts: N clean prompts.
        metadata: N mappings, one for each image.
        timeout: seconds that the call may take. A call that takes longer is left behind in a
            daemon thread, which cannot keep the process from ending.
        on_error: "fail" raises at a score that is not finite; "drop" returns NaN there.
        describe: index of an image -> "prompt 'x', sample 3".

    Returns:
        float64 [N]; finite, but for NaN under "drop".

    Raises:
        RewardError: the call raised (the cause is chained) or took too long; the result is not
            N real numbers; or one is not finite under "fail". Only the last depends on
            `on_error`: a scorer that is dead is an error in any case.
    """
    values = _checked(reward.name, _call(reward, images.copy(), prompts, metadata, timeout), images)
    finite = np.isfinite(values)
    if finite.all():
        return values
    if on_error == "fail":
        bad = np.flatnonzero(~finite)
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise RewardError(
            f"reward '{reward.name}' is {values[bad[0]]} for {describe(int(bad[0]))}{more}"
        )
    return np.where(finite, values, np.nan)


def _call(
    reward: Reward,
    images: np.ndarray,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    timeout: float,
) -> np.ndarray:
    result: list[np.ndarray] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            # Reading the result may be the work itself: MLX arrays are lazy.
            result.append(np.asarray(reward(images, prompts, metadata)))
        except BaseException as error:  # a reward that calls sys.exit() has failed too
            failure.append(error)

    thread = threading.Thread(target=work, name=f"reward {reward.name}", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise RewardError(
            f"reward '{reward.name}' took more than {timeout:g} s for {len(images)} images "
            "(reward.timeout)"
        )
    if failure:
        kind, text = type(failure[0]).__name__, str(failure[0])
        raise RewardError(f"reward '{reward.name}' raised {kind}: {text}") from failure[0]
    return result[0]


def _checked(name: str, values: np.ndarray, images: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "fiub":  # numpy would read the string "1.5" as a number
        raise RewardError(f"reward '{name}' returned values of type {values.dtype}, not numbers")
    if values.shape != (len(images),):
        shape = list(values.shape)
        raise RewardError(
            f"reward '{name}' returned shape {shape} for {len(images)} images: "
            f"expected {[len(images)]}"
        )
    return values.astype(np.float64)
