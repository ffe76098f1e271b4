"""A run begun on one backend goes on on the other, and lands where it would have landed."""

import numpy as np
import pytest
from safetensors.numpy import load as read_tensors

from common.backends import load


@pytest.mark.parametrize(("first", "second"), [("cpu", "mlx"), ("mlx", "cpu")])
@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_hand_over(tiny, train, final_bytes, first, second, kind):
    config = tiny("run.updates=2", f"adapter.kind={kind}", "optimizer.ema_decay=0.9")
    begun, _, finished = train(config, load(first), stop_after=1)
    assert not finished
    _, record, finished = train(config, load(second), path=begun.path)
    assert finished
    assert [row["update"] for row in record.updates] == [2]
    whole, _, _ = train(config, load(first))
    there, here = read_tensors(final_bytes(begun)), read_tensors(final_bytes(whole))
    assert there.keys() == here.keys()
    gap = sum(float(((there[k] - here[k]) ** 2).sum()) for k in here)
    size = sum(float((here[k] ** 2).sum()) for k in here)
    assert np.sqrt(gap / size) < 1e-3
