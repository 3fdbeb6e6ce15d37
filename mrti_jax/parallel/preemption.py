# SPDX-License-Identifier: Apache-2.0
"""Requests to stop (SIGTERM, SIGINT), which all processes of a run follow at the same step."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from mrti_jax.errors import Preempted


class Stopped(Exception):
    """Some work was abandoned because the run is to stop."""


class StopRequest:
    """A signal that asks a loop to save and end; a SIGINT after that ends it at once."""

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._signal: int | None = None
        self._agreed = False
        self._asked = 0

    def reached(self) -> bool:
        """Whether to stop; all processes must ask equally often, and get the same answer."""
        self._asked += 1
        if jax.distributed.is_initialized():
            self._agreed = self._agreed or reached_preemption_sync_point(self._asked)
            return self._agreed
        return self._signal is not None

    def heed(self) -> None:
        """Raises Stopped if `reached`; must be called in the same way."""
        if self.reached():
            raise Stopped

    @property
    def asked_alone(self) -> bool:
        """Whether to stop this process, of which there are no others to agree with."""
        return self._signal is not None and not jax.distributed.is_initialized()

    def leave(self, message: str) -> NoReturn:
        """Raises Preempted, or KeyboardInterrupt if the user asked to stop, with this message."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise Preempted(message)

    def request(self, number: int, _: object) -> None:
        """The signal handler."""
        if self._signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # a notice and the shutdown that it announced are one request
        self._signal = number
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):  # nobody reads it
                # Unlike print, it may interrupt another print.
                os.write(2, f"\n{self._answer}\n".encode())
        if jax.distributed.is_initialized():
            # The coordination service catches this signal itself, and agrees on a step with the
            # other processes: one that stopped alone would leave them waiting for it.
            os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def stop_requests(answer: str) -> Iterator[StopRequest]:
    """Listens for SIGTERM and SIGINT, to which it gives this answer on stderr; does nothing outside
    the main thread."""
    stop = StopRequest(answer)
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
