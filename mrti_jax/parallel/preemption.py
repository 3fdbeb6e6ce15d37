# SPDX-License-Identifier: Apache-2.0
"""Requests to stop (SIGTERM, SIGINT), which all processes of a run follow after the same step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from mrti_jax.errors import Preempted


class StopRequest:
    """A signal that asks a loop to save and end; the second one ends it at once."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def reached(self, done: int) -> bool:
        """Whether to stop after `done` steps; call it after every step, in every process."""
        if jax.distributed.is_initialized():
            return reached_preemption_sync_point(done)
        return self._signal is not None

    def leave(self, message: str) -> NoReturn:
        """Raises Preempted, or KeyboardInterrupt where the user asked."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise Preempted(message)

    def request(self, number: int, _: object) -> None:
        """The signals' handler."""
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        if jax.distributed.is_initialized():
            # The coordination service hears this signal itself, and agrees on a step with the
            # other processes: one that stopped alone would leave them waiting for it.
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listens to SIGTERM and SIGINT; does nothing outside the main thread."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may have signal handlers
        return
    heard = {signal.SIGINT}
    if not jax.distributed.is_initialized():
        heard.add(signal.SIGTERM)
    before = {number: signal.signal(number, stop.request) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
