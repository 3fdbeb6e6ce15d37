# SPDX-License-Identifier: Apache-2.0
"""Programs that are compiled before they are called."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.parallel.compiler import compile_ahead, compiler_options
from mrti_jax.parallel.mesh import make_mesh


def compilations(run: Callable[[], object]) -> int:
    """How many programs are compiled in it."""
    compiled: list[str] = []

    def count(event: str, duration: float, **_: str) -> None:
        compiled.extend([event] * (event == "/jax/core/compile/backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    return len(compiled)


def test_the_call_then_compiles_nothing():
    program = jax.jit(
        lambda state, x: state + jnp.sin(x) @ x,
        donate_argnums=0,
        compiler_options=compiler_options(make_mesh()),
    )
    state, x = jnp.zeros((3, 3)), jnp.ones((3, 3))
    compile_ahead(program, state, x)
    assert not state.is_deleted()

    results: list[jax.Array] = []
    assert compilations(lambda: results.append(program(state, x))) == 0
    np.testing.assert_allclose(results[0], 3 * np.sin(1) * np.ones((3, 3)), rtol=1e-6)
    assert state.is_deleted()


def test_signals_are_heard_meanwhile():
    events: list[str] = []

    def compile_slowly() -> None:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # a second in C, like XLA
        events.append("compiled")

    before = signal.signal(signal.SIGALRM, lambda *_: events.append("heard"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        compile_ahead(SimpleNamespace(lower=lambda: SimpleNamespace(compile=compile_slowly)))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert events == ["heard", "compiled"]


def test_a_setting_of_the_callers_thread_holds():
    program = jax.jit(lambda x: x @ x)
    x = jnp.ones((3, 3))
    with jax.default_matmul_precision("highest"):
        compile_ahead(program, x)
        assert compilations(lambda: program(x)) == 0


def test_a_stop_is_heeded_before_the_end():
    """Runs in a process of its own, which a compiler at work would otherwise outlive."""
    code = """
import time
from types import SimpleNamespace
from mrti_jax.errors import Preempted
from mrti_jax.parallel.compiler import compile_ahead

def stop():
    raise Preempted("told to")

slow = SimpleNamespace(lower=lambda: SimpleNamespace(compile=lambda: time.sleep(60)))
try:
    compile_ahead(slow, heed_stop=stop)
except Preempted:
    print("stopped")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.returncode) == ("stopped\n", 75), done.stderr


def test_what_compiling_raises_is_raised():
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        compile_ahead(jax.jit(jnp.matmul), jnp.ones(2), jnp.ones(3))
