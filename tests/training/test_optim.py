# SPDX-License-Identifier: Apache-2.0
"""AdamW on the table: rows without a gradient don't move; dense, it is PyTorch's."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrti_jax.training.config import OptimizerConfig
from mrti_jax.training.learning_rate import learning_rates
from mrti_jax.training.optim import initial_optimizer, update_table

RNG = np.random.default_rng(0)
START = RNG.standard_normal((3, 2, 4), np.float32)
GRADIENTS = RNG.standard_normal((12, 3, 2, 4), np.float32)


def run(config: OptimizerConfig, trained: np.ndarray, gradients: np.ndarray = GRADIENTS):
    table, state = jnp.asarray(START), initial_optimizer(config, jnp.asarray(START))
    rates, tables = learning_rates(config, len(trained)), [START]
    for step, rows in enumerate(trained):
        gradient = jnp.asarray(gradients[step] * rows[:, None, None])
        rate = jnp.asarray(rates[step])
        table, state = update_table(config, rate, table, gradient, state, jnp.asarray(rows))
        tables.append(np.asarray(table))
    return np.stack(tables)


def constant(**values) -> OptimizerConfig:
    settings = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.1, "sharing": 0.0}
    settings |= values
    return OptimizerConfig(**{"learning_rate": 4e-2} | settings)


def test_rows_without_an_example_stand_still_to_the_bit():
    trained = np.ones((12, 3), bool)
    trained[4:, 1] = False
    trained[:, 2] = False
    tables = run(constant(), trained)
    assert (tables[5:, 1] == tables[4, 1]).all() and (tables[:, 2] == START[2]).all()
    assert (tables[1:, 0] != tables[:-1, 0]).all()


def test_a_row_is_updated_as_if_it_were_alone():
    late = np.zeros((12, 3), bool)
    late[6:, 0] = True
    early = np.ones((12, 3), bool)
    shifted = np.roll(GRADIENTS, -6, axis=0)
    tables, alone = run(constant(), late), run(constant(), early, shifted)
    np.testing.assert_array_equal(tables[6:, 0], alone[:7, 0])


def test_dense_rows_go_on_moving_by_momentum_and_decay():
    trained = np.ones((12, 3), bool)
    trained[4:, 1] = False
    tables = run(constant(dense=True), trained)
    assert (tables[5:, 1] != tables[4:-1, 1]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("sharing", [0.2, 1.0])
def test_a_row_learns_from_noisier_buckets_by_their_distance_in_time(sharing: float):
    trained = RNG.random((12, 3)) < 0.4
    tables = run(constant(sharing=sharing), trained)
    for row in range(3):
        # Three buckets: each is a third of diffusion time, ten thirds of a tenth.
        weights = [sharing ** (10 / 3 * away) for away in range(3 - row)]
        gradients = np.einsum("m,sm,smvd->svd", weights, trained[:, row:], GRADIENTS[:, row:])
        any_trained = trained[:, row:].any(1)
        assert 0 < any_trained.sum() < 12
        adam = optax.adamw(4e-2, weight_decay=0.1)
        value, seen = jnp.asarray(START[row]), [START[row]]
        state = adam.init(value)
        for step in range(12):
            if any_trained[step]:
                update, state = adam.update(jnp.asarray(gradients[step]), state, value)
                value += update
            seen.append(np.asarray(value))
        # float32, twelve updates of about 0.04
        np.testing.assert_allclose(tables[:, row], seen, rtol=0, atol=2e-6)


def test_the_noisiest_row_learns_nothing_from_other_buckets():
    trained = np.ones((12, 3), bool)
    trained[:, 2] = False
    tables = run(constant(sharing=1.0), trained)
    assert (tables[:, 2] == START[2]).all() and (tables[-1, :2] != START[:2]).all()


@pytest.mark.torch
def test_dense_is_pytorch_s_adamw():
    torch = pytest.importorskip("torch")
    trained = RNG.random((12, 3)) < 0.6
    tables = run(constant(dense=True, learning_rate=0.05), trained)
    table = torch.nn.Parameter(torch.tensor(START))
    adamw = torch.optim.AdamW([table], lr=0.05, weight_decay=0.1)
    for step in range(12):
        table.grad = torch.tensor(GRADIENTS[step] * trained[step][:, None, None])
        adamw.step()
        # float32, twelve updates of about 0.05
        np.testing.assert_allclose(table.detach().numpy(), tables[step + 1], rtol=0, atol=1e-5)
