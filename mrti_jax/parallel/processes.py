# SPDX-License-Identifier: Apache-2.0
"""Several processes, on several hosts, as one run: start-up, division of work, loss of one."""

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrti_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

Distributed = Literal["auto", "on", "off"]

# A process that is silent for so long is lost, and ends the others.
HEARTBEAT_SECONDS = 30
# At the end, a process waits so long for the others.
SHUTDOWN_SECONDS = 60
# How JAX says that no environment it knows (Cloud TPU, GKE, Slurm, Open MPI) is there.
_NO_CLUSTER = "coordinator_address should be defined."
_LOST = ("UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION")


def join(
    distributed: Distributed = "auto",
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    stop_together: bool = True,
) -> None:
    """Makes this process one of a run of several; before any other use of JAX.

    What is not given is what Cloud TPU, GKE, Slurm or Open MPI tell. "auto" goes on alone where
    none of them is there, and where JAX is in use already. With `stop_together`, SIGTERM is but a
    request, see `StopRequest`; else it ends this process at once.

    Raises:
        UserError: the other processes can't be found or reached, or the arguments contradict.
    """
    given = [value for value in (coordinator, num_processes, process_id) if value is not None]
    if distributed == "off":
        if given:
            raise UserError("--distributed off contradicts --coordinator and what belongs to it")
        return
    alone_is_fine = distributed == "auto" and not given
    if alone_is_fine and (_launched_alone() or jax.distributed.is_initialized()):
        return
    advice = "give --coordinator HOST:PORT, --num-processes and --process-id, or --distributed off"
    jax.config.update("jax_enable_preemption_service", stop_together)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        if alone_is_fine and str(error) == _NO_CLUSTER:
            return
        raise UserError(f"can't find the processes of this run ({error}): {advice}") from error
    except RuntimeError as error:
        if alone_is_fine and "before any JAX calls" in str(error):
            return
        raise UserError(f"can't join the processes of this run ({error}): {advice}") from error


def is_writer() -> bool:
    """Whether this is the process that writes files and tells of progress."""
    return jax.process_index() == 0


def map_in_parts(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]`, in every process, each having worked on its part alone.

    `work` must not raise: the others would wait in vain.
    """
    count = jax.process_count()
    if count == 1:
        return [work(item) for item in items]
    parts = gather([work(item) for item in items[jax.process_index() :: count]])
    return [parts[index % count][index // count] for index in range(len(items))]


def gather(mine: Item) -> list[Item]:
    """What each process has given, pickled on its way, in all of them; all must call it."""
    if jax.process_count() == 1:
        return [mine]
    content = np.frombuffer(pickle.dumps(mine), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, lengths.max() - len(content)))
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def means_a_lost_process(error: Exception) -> bool:
    """Whether a computation failed because a process it needs is gone."""
    text = str(error)
    is_runtime_error = isinstance(error, jax.errors.JaxRuntimeError)
    return is_runtime_error and (text.startswith(_LOST) or "Gloo" in text or "NCCL" in text)


def _launched_alone() -> bool:
    """A job of one task: joining nobody would only hide devices from it."""
    return "1" in (os.environ.get("SLURM_NTASKS"), os.environ.get("OMPI_COMM_WORLD_SIZE"))
