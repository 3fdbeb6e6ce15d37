# SPDX-License-Identifier: Apache-2.0
"""Several processes, on several hosts, as one run: start-up, division of work, loss of one."""

import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrti_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

Distributed = Literal["auto", "on", "off"]

# A process that is silent for this long is lost, and ends the others.
HEARTBEAT_SECONDS = 30
# At the end, a process waits this long for the others.
SHUTDOWN_SECONDS = 60
# What each process sends the others at a time; an array's length must be an int32.
_ITEMS_AT_ONCE = 16
# How JAX says that it found no environment it knows (Cloud TPU, GKE, Slurm, Open MPI).
_NO_CLUSTER = "coordinator_address should be defined."
_LOST = ("UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION")


@dataclass(frozen=True)
class _Problem:
    """What a process sends instead of what the others wait for."""

    text: str


class _Told(UserError):
    """A problem that all processes know of."""


def join(
    distributed: Distributed = "auto",
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    stop_together: bool = True,
) -> None:
    """Joins this process to the others of its run; call it before any other use of JAX.

    Arguments not given come from Cloud TPU, GKE, Slurm or Open MPI. "auto" continues alone if none
    of them is present, or if JAX is already in use. With `stop_together`, SIGTERM is only a
    request, see `StopRequest`; otherwise it ends this process at once.

    Raises:
        UserError: the other processes can't be found, or the arguments are contradictory.
    """
    given = [value for value in (coordinator, num_processes, process_id) if value is not None]
    if distributed == "off":
        if given:
            raise UserError(
                "--distributed off contradicts --coordinator, --num-processes and --process-id"
            )
        return
    alone_is_fine = distributed == "auto" and not given
    if alone_is_fine and (_launched_alone() or jax.distributed.is_initialized()):
        return
    if coordinator is not None and not _is_address(coordinator):
        raise UserError(f"--coordinator is '{coordinator}', but must be HOST:PORT")
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


def _is_address(coordinator: str) -> bool:
    """Whether it is HOST:PORT; the host's name may not be known yet, when this process starts."""
    match = re.fullmatch(r".+:(\d{1,5})", coordinator)
    return match is not None and 0 < int(match[1]) < 2**16


def is_writer() -> bool:
    """Whether this is the process that writes files and reports progress."""
    return jax.process_index() == 0


def map_in_parts(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]`, in every process, each working only on its own part.

    `work` must not raise: the others would wait forever.
    """
    count = jax.process_count()
    results: list[Result] = []
    for first in range(0, len(items), count * _ITEMS_AT_ONCE):
        turn = items[first : first + count * _ITEMS_AT_ONCE]
        parts = gather([work(item) for item in turn[jax.process_index() :: count]])
        results += [parts[index % count][index // count] for index in range(len(turn))]
    return results


def gather(mine: Item) -> list[Item]:
    """What each process passes, in all of them, pickled in transit; all must call it.

    Raises UserError in all of them if one has failed meanwhile, see `failing_together`.
    """
    if jax.process_count() == 1:
        return [mine]
    content = np.frombuffer(pickle.dumps(mine), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, lengths.max() - len(content)))
    rows = multihost_utils.process_allgather(padded)
    given = [pickle.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]
    problems = {i: one.text for i, one in enumerate(given) if isinstance(one, _Problem)}
    if problems:
        index, text = next(iter(problems.items()))
        everywhere = len(problems) == len(given)
        raise _Told(text if everywhere else f"process {index} of {len(given)}: {text}")
    return given


@contextmanager
def failing_together() -> Iterator[None]:
    """Turns a UserError that one process raises within it into one that all processes raise.

    All must enter it, and may wait for each other only in `gather`.
    """
    try:
        yield
    except _Told:
        raise
    except UserError as error:
        gather(_Problem(str(error)))
        raise
    gather(None)


def as_writer(work: Callable[[], object]) -> None:
    """Runs `work` only in the process that writes files; the others wait for it.

    A UserError that it raises is raised in all processes.
    """
    with failing_together():
        if is_writer():
            work()


def check_same(names: Sequence[str], what: str) -> None:
    """Raises UserError, in all processes, unless these names are the same in all of them."""
    lists = gather(list(names))
    for index, others in enumerate(lists):
        if others != lists[0]:
            different = ", ".join(sorted({*lists[0]} ^ {*others})[:5])
            raise UserError(
                f"{what} differ between process 0 and process {index} ({different}): they must be "
                "the same for all"
            )


def means_a_lost_process(error: Exception) -> bool:
    """Whether a computation failed because a process it needs is gone."""
    text = str(error)
    # JAX raises either of them for the same failure.
    from_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return from_jax and (text.startswith(_LOST) or "Gloo" in text or "NCCL" in text)


def _launched_alone() -> bool:
    """A job of one task: joining nobody would only hide devices from it."""
    return "1" in (os.environ.get("SLURM_NTASKS"), os.environ.get("OMPI_COMM_WORLD_SIZE"))
