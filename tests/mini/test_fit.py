# SPDX-License-Identifier: Apache-2.0
"""The stages' training loop: it learns, and resumes where it was stopped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from mrti_jax.mini import fit as fit_module
from mrti_jax.mini.fit import fit


def fit_line(folder, batch, steps=60):
    def loss(params, data, key, step):
        x, y = data
        noise = 0.01 * jax.random.normal(key, y.shape)
        return jnp.mean((params["slope"] * x + params["offset"] + noise - y) ** 2)

    start = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}
    return fit("line", start, loss, batch, steps=steps, learning_rate=0.3, folder=folder)


def points(step):
    x = np.random.default_rng(step).uniform(-1, 1, 32).astype(np.float32)
    return x, 3 * x - 1


def test_learns_a_line(tmp_path):
    fitted = fit_line(epath.Path(tmp_path), points, steps=300)
    # The average over the last thousand steps still holds some of the way there.
    assert float(fitted["slope"]) == pytest.approx(3.0, abs=0.3)
    assert float(fitted["offset"]) == pytest.approx(-1.0, abs=0.3)


def test_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole = fit_line(epath.Path(tmp_path / "whole"), points)

    def stopped(step):
        if step == 41:
            raise KeyboardInterrupt
        return points(step)

    monkeypatch.setattr(fit_module, "SAVE_SECONDS", 0)
    folder = epath.Path(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        fit_line(folder, stopped)

    seen = []
    resumed = fit_line(folder, lambda step: seen.append(step) or points(step))
    assert seen[0] == 41
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
