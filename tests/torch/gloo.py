"""Processes of one thread with gloo between them, each with a backend that is connected.

They are forks of one process that has PyTorch imported, so that starting them takes little.
"""

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from common import backends

PATIENCE = "300"
"""Seconds that they wait for each other."""


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What work(backend, *arguments) gives in each of them, or the text of what it raises.

    work: a function of a module, since it is found there by its name.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("Windows has no fork and no SIGKILL")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["drift_torch.sharding", "torch.distributed.fsdp", __name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    receivers, processes = [], []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_one, args=(sender, rank, size, port, work, arguments), daemon=True
        )
        process.start()
        sender.close()  # so that the end of the process is the end of what it sends
        receivers.append(receiver)
        processes.append(process)
    results = [receiver.recv() for receiver in receivers]
    for process in processes:
        process.join()
    return results


def _one(
    sender: Connection, rank: int, size: int, port: int, work: Callable[..., Any], arguments: Any
) -> None:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in environment.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "DRIFT_TIMEOUT": PATIENCE}
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)
    backend = backends.load("cpu")
    try:
        backend.connect()
        sender.send(work(backend, *arguments))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
    finally:
        backend.world.close()
