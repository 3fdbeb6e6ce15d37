# SPDX-License-Identifier: Apache-2.0
"""What an example is made of: a function of seed, step and example alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.training.draws import Draws, draw

T = 1000


def draws(step: int, index: np.ndarray | range, *, batch_size: int = 8, **options) -> Draws:
    settings = {
        "batch_size": batch_size,
        "latent_shape": (2, 2, 1),
        "num_train_timesteps": T,
        "timesteps": "stratified",
        "flip": True,
        "first_prompt": jnp.asarray([0, 0, 7]),
        "num_prompts": jnp.asarray([7, 7, 2]),
    }
    arguments = jnp.uint32(options.pop("seed", 0)), jnp.int32(step), jnp.asarray(index, jnp.int32)
    return draw(*arguments, **(settings | options))


def test_examples_do_not_depend_on_the_others_of_their_part():
    whole, part = draws(3, range(8)), draws(3, range(4, 8))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:], b), whole, part)


def test_examples_differ_between_steps_examples_and_seeds():
    noise = [draws(0, range(8)).noise, draws(1, range(8)).noise, draws(0, range(8), seed=1).noise]
    flat = np.concatenate([np.asarray(x).reshape(8, -1) for x in noise])
    assert len(np.unique(flat, axis=0)) == 24


def test_every_epoch_shows_every_photo_once_and_captions_are_the_photo_s():
    many = [draws(step, range(8)) for step in range(6)]
    photo = np.concatenate([x.photo for x in many])
    prompt = np.concatenate([x.prompt for x in many])
    assert (np.sort(photo.reshape(-1, 3), axis=1) == np.arange(3)).all()
    assert len(np.unique(photo.reshape(-1, 3), axis=0)) > 1
    assert set(prompt[photo == 2]) <= {7, 8} and prompt[photo != 2].max() < 7


@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_timesteps_give_each_row_its_share_all_the_time(seed: int):
    times = np.concatenate([draws(step, range(8), seed=seed).timestep for step in range(50)])
    assert times.min() >= 0 and times.max() < T
    for start in range(0, 400, 40):  # in any 40 examples each of 10 rows has 4, give or take 1
        counts = np.bincount(times[start : start + 40] // 100, minlength=10)
        assert counts.min() >= 3 and counts.max() <= 5


@pytest.mark.parametrize("total", [1, 4096, 4097, 65536])
def test_stratified_timesteps_reach_all_of_a_schedule_of_any_length(total: int):
    times = np.asarray(draws(0, range(4000), batch_size=4000, num_train_timesteps=total).timestep)
    assert times.min() >= 0 and times.max() < total
    counts = np.bincount(times * 10 // total, minlength=10)
    assert (abs(counts - 400) <= 2).all() or total == 1


def test_uniform_timesteps_are_independent():
    times = np.asarray(draws(0, range(4000), batch_size=4000, timesteps="uniform").timestep)
    counts = np.bincount(times // 100, minlength=10)
    assert times.min() >= 0 and times.max() < T
    assert (np.abs(counts - 400) < 5 * np.sqrt(360)).all() and counts.std() > 5


def test_half_of_the_examples_are_mirrored_only_on_request():
    assert not draws(0, range(64), batch_size=64, flip=False).mirrored.any()
    assert 16 < draws(0, range(64), batch_size=64).mirrored.sum() < 48


def test_photos_that_fill_up_change_no_draw():
    def filled(missing: int) -> Draws:
        first, num = (jnp.pad(jnp.asarray(x), (0, missing)) for x in ([0, 4, 6], [4, 2, 1]))
        return draws(5, range(8), first_prompt=first, num_prompts=num)

    jax.tree.map(np.testing.assert_array_equal, filled(0), filled(5))
