# SPDX-License-Identifier: Apache-2.0
"""Programs that are compiled before they are called."""

import hashlib
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.parallel.compiler import compile_ahead, compiler_options
from mrti_jax.parallel.mesh import make_mesh


def test_the_call_then_compiles_nothing():
    program = jax.jit(
        lambda state, x: state + jnp.sin(x) @ x,
        donate_argnums=0,
        compiler_options=compiler_options(make_mesh()),
    )
    state, x = jnp.zeros((3, 3)), jnp.ones((3, 3))
    compile_ahead(program, state, x)
    assert not state.is_deleted()

    def refuse(event: str, duration: float, **_: str) -> None:
        assert event != "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(refuse)
    try:
        np.testing.assert_allclose(program(state, x), 3 * np.sin(1) * np.ones((3, 3)), rtol=1e-6)
    finally:
        jax.monitoring.unregister_event_duration_listener(refuse)
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


def test_what_compiling_raises_is_raised():
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        compile_ahead(jax.jit(jnp.matmul), jnp.ones(2), jnp.ones(3))
