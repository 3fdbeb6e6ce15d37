# SPDX-License-Identifier: Apache-2.0
"""AdamW on the table: rows without a gradient don't move; dense, it is PyTorch's."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrti_jax.training.config import OptimizerConfig
from mrti_jax.training.optim import initial_optimizer, update_table

RNG = np.random.default_rng(0)
START = RNG.standard_normal((3, 2, 4), np.float32)
GRADIENTS = RNG.standard_normal((12, 3, 2, 4), np.float32)


def run(config: OptimizerConfig, trained: np.ndarray, gradients: np.ndarray = GRADIENTS):
    table, state = jnp.asarray(START), initial_optimizer(config, jnp.asarray(START))
    tables = [START]
    for step, rows in enumerate(trained):
        gradient = jnp.asarray(gradients[step] * rows[:, None, None])
        table, state = update_table(
            config, len(trained), jnp.int32(step), table, gradient, state, jnp.asarray(rows)
        )
        tables.append(np.asarray(table))
    return np.stack(tables)


def constant(**values) -> OptimizerConfig:
    settings = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.1, "shared": False}
    settings |= values
    return OptimizerConfig(**{"learning_rate": 4e-2} | settings)


def with_base() -> OptimizerConfig:
    return constant(weight_decay=0.0, learning_rate=0.05, shared=True)


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


def test_shared_rows_are_a_base_and_offsets_that_share_a_divisor():
    trained = RNG.random((12, 3)) < 0.6
    b1, b2, eps = 0.9, 0.9, 1e-8  # with b2 = 0.999, 1 - b2^n has few digits in float32
    tables = run(dataclasses.replace(with_base(), beta2=b2), trained)
    base = alone(optax.adam(0.05, b2=b2), (GRADIENTS * trained[:, :, None, None]).sum(1))
    count, mean, square = np.zeros((3, 1, 1)), np.zeros(START.shape), np.zeros(START.shape)
    offset = np.zeros(START.shape)
    for step in range(12):
        on = trained[step][:, None, None]
        count += on
        mean = np.where(on, b1 * mean + (1 - b1) * GRADIENTS[step], mean)
        square = np.where(on, b2 * square + (1 - b2) * GRADIENTS[step] ** 2, square)
        seen = np.maximum(count, 1)
        divisor = (np.sqrt(square / (1 - b2**seen)) + eps).max(0)
        offset -= on * 0.05 * mean / (1 - b1**seen) / divisor
        wanted = START + base[step + 1] + offset
        # float32, twelve updates of about 0.05
        np.testing.assert_allclose(tables[step + 1], wanted, rtol=0, atol=2e-6)


def test_a_row_that_says_little_keeps_to_the_base():
    gradients = GRADIENTS * np.array([1.0, 1.0, 1e-3], np.float32)[:, None, None]
    trained = np.ones((12, 3), bool)
    moved = run(with_base(), trained, gradients)[-1] - START
    base = alone(optax.adam(0.05), gradients.sum(1))[-1]
    from_base = np.abs(moved - base).max(axis=(1, 2))
    assert from_base[2] < 2e-3 < 0.1 < from_base[:2].min()


def test_a_single_row_has_no_base():
    table, gradient = jnp.asarray(START[:1]), jnp.asarray(GRADIENTS[0, :1])
    trained = jnp.ones(1, bool)

    def updated(config: OptimizerConfig):
        state = initial_optimizer(config, table)
        return update_table(config, 1, jnp.int32(0), table, gradient, state, trained)[0]

    plain = dataclasses.replace(with_base(), shared=False)
    np.testing.assert_array_equal(updated(with_base()), updated(plain))


def alone(adam: optax.GradientTransformation, gradients: np.ndarray) -> np.ndarray:
    """Where Adam gets from zero, after each update."""
    value = jnp.zeros(gradients.shape[1:])
    state, values = adam.init(value), [value]
    for gradient in gradients:
        update, state = adam.update(jnp.asarray(gradient), state)
        values.append(values[-1] + update)
    return np.stack(values)


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
