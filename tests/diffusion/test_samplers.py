# SPDX-License-Identifier: Apache-2.0
"""Samplers against what is known of them: exact solutions, variances, the papers' formulas."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.diffusion import SAMPLERS, NoiseSchedule, make_sampler
from mrti_jax.diffusion.prediction import training_target

from .reference import PREDICTION_TYPES, SD15, SD21, draw, relative_error, sample, toy_network

TO_ZERO = SD15 | {"set_alpha_to_one": True, "timestep_spacing": "trailing"}
DETERMINISTIC = [name for name in SAMPLERS if name != "euler_ancestral"]


def exact_network(config, mean, std):
    """What a perfect network predicts if each latent value is drawn from N(mean, std^2)."""
    schedule = NoiseSchedule.from_config(config)
    table = np.arange(schedule.num_train_timesteps)

    def network(latents, timestep):
        log_ratio = jnp.interp(timestep, table, np.log(schedule.noise_to_signal))
        ratio = jnp.exp(log_ratio)
        alpha, sigma = (ratio**2 + 1) ** -0.5, ratio * (ratio**2 + 1) ** -0.5
        epsilon = sigma * (latents - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        x0 = (latents - sigma * epsilon) / alpha
        return training_target(schedule.prediction_type, x0, epsilon, alpha, sigma)

    return network


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "pndm"])
def test_a_single_picture_is_recovered(name, count, prediction_type):
    config = TO_ZERO | {"prediction_type": prediction_type}
    picture = draw(seed=3)
    noise, fresh = draw(), draw((count + 1, *picture.shape), seed=1)
    latents, _, steps = sample(
        config, name, count, exact_network(config, picture, 0.0), noise, fresh[:count]
    )
    assert len(steps.timesteps) == count
    # fp32, and 1/alpha = 15 at the first step; dpmpp_2m_karras rounds its timesteps, so that
    # the network takes the noise for a bit more or less than it is.
    assert relative_error(latents, picture) < (0.05 if name == "dpmpp_2m_karras" else 3e-4)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_exact_solution_for_gaussian_data(name):
    """The probability-flow ODE keeps each value's place in its distribution: x_0 is linear in x_T,
    and more steps come nearer to it."""
    config = TO_ZERO | {"timestep_spacing": "linspace"}
    mean, std, noise = 0.7, 0.5, draw()
    schedule = NoiseSchedule.from_config(config)
    alpha, sigma = schedule.alpha[-1], schedule.sigma[-1]
    want = mean + std * (noise - alpha * mean) / np.sqrt(alpha**2 * std**2 + sigma**2)
    errors = []
    for count in (25, 50, 100):
        latents, _, _ = sample(config, name, count, exact_network(config, mean, std), noise)
        errors.append(relative_error(latents, want))
    assert errors[-1] < 0.03
    assert errors[2] < 0.5 * errors[0]
    if name == "dpmpp_2m_karras":
        # Second order: Euler on the same noise levels is 10 times as far off (0.05 at 25 steps).
        assert errors[0] < 0.01


@pytest.mark.parametrize(("name", "options"), [("ddim", {"eta": 1.0}), ("euler_ancestral", {})])
def test_stochastic_samplers_keep_the_variance(name, options):
    mean, std, count = 0.7, 0.5, 1000
    noise, fresh = draw((4, 16, 16, 4)), draw((count, 4, 16, 16, 4), seed=1)
    latents, _, _ = sample(
        TO_ZERO, name, count, exact_network(TO_ZERO, mean, std), noise, fresh, **options
    )
    # 4096 draws: the standard error of the deviation is 1.1 %, of the mean 0.008. 1000 steps of
    # first order take off another 1 %.
    assert abs(latents.std() / std - 1) < 0.04
    assert abs(latents.mean() - mean) < 0.03


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("name", "eta"), [("euler", 0.0), ("euler_ancestral", 1.0)])
def test_euler_is_ddim_in_other_coordinates(name, eta, prediction_type):
    """With the same timesteps, Euler is DDIM with eta 0, ancestral Euler DDIM with eta 1."""
    # 20 divides 1000, so that DDIM's t - T // n is the next timestep.
    config = TO_ZERO | {"prediction_type": prediction_type}
    network = partial(toy_network, jnp)
    noise, fresh = draw(), draw((20, 2, 6, 5, 4), seed=1)
    ddim, _, _ = sample(config, "ddim", 20, network, noise, fresh, eta=eta)
    schedule = NoiseSchedule.from_config(config)
    start = schedule.noise_to_signal[-1]
    # Euler starts from x_0 = 0 plus noise: DDIM must start from the same scaled to unit variance.
    euler, _, _ = sample(config, name, 20, network, noise / (schedule.alpha[-1] * start), fresh)
    assert relative_error(euler, ddim) < 1e-4


def test_eta_1_has_the_variance_of_the_ddpm_posterior():
    schedule = NoiseSchedule.from_config(SD15)
    steps = make_sampler("ddim", SD15, eta=1.0).plan(schedule, 1000 // 4)
    t = steps.timesteps[:-1]
    bar, bar_before = (schedule.alphas_cumprod[i].astype(float) for i in (t, t - 4))
    beta = 1 - bar / bar_before
    posterior = (1 - bar_before) / (1 - bar) * beta
    np.testing.assert_allclose(steps.noise_std[:-1] ** 2, posterior, rtol=1e-5)
    # What is left of the noise after a step has the variance of the next timestep.
    total = steps.direction**2 + steps.noise_std**2
    np.testing.assert_allclose(total[:-1], 1 - bar_before, rtol=1e-5)


def test_ancestral_noise_adds_up():
    schedule = NoiseSchedule.from_config(SD15)
    steps = make_sampler("euler_ancestral", SD15).plan(schedule, 30)
    following = np.append(steps.sigma[1:], 0)
    np.testing.assert_allclose(
        np.hypot(steps.sigma_down, steps.sigma_up), following, rtol=1e-5, atol=1e-6
    )


def test_pndm_as_adams_bashforth():
    """PLMS written out with a list of predictions and DDIM's transfer, in fp64."""
    count, stride = 10, 100
    bar = NoiseSchedule.from_config(SD15).alphas_cumprod.astype(float)

    def transfer(x, epsilon, t, t_next):
        a, b = bar[t], bar[max(t_next, 0)]
        x0 = (x - np.sqrt(1 - a) * epsilon) / np.sqrt(a)
        return np.sqrt(b) * x0 + np.sqrt(1 - b) * epsilon

    x = draw().astype(float)
    e = []
    for i, t in enumerate(range(901, 0, -stride)):
        e.append(toy_network(np, x, t))
        if i == 0:
            trial = transfer(x, e[0], t, t - stride)
            mixed = (e[0] + toy_network(np, trial, t - stride)) / 2
        elif i == 1:
            mixed = (3 * e[-1] - e[-2]) / 2
        elif i == 2:
            mixed = (23 * e[-1] - 16 * e[-2] + 5 * e[-3]) / 12
        else:
            mixed = (55 * e[-1] - 59 * e[-2] + 37 * e[-3] - 9 * e[-4]) / 24
        x = transfer(x, mixed, t, t - stride)
    got, _, steps = sample(SD15, "pndm", count, partial(toy_network, jnp), draw())
    assert list(steps.timesteps[:4]) == [901, 801, 801, 701] and len(steps.timesteps) == 11
    assert relative_error(got, x) < 2e-5


@pytest.mark.parametrize("count", [4, 20])
def test_dpmpp_2m_as_in_the_paper(count):
    """Algorithm 2 of arXiv 2211.01095 in lambda = log(alpha / sigma), in fp64, to sigma_min."""
    config = SD21 | {"final_sigmas_type": "sigma_min"}
    schedule = NoiseSchedule.from_config(config)
    t = np.append(np.linspace(0, 999, count + 1).round().astype(int)[:0:-1], 0)
    alpha, sigma = schedule.alpha[t], schedule.sigma[t]
    lam = np.log(alpha / sigma)
    x, x0 = draw().astype(float), []
    for i in range(count):
        v = toy_network(np, x, t[i])
        x0.append(alpha[i] * x - sigma[i] * v)
        h = lam[i + 1] - lam[i]
        first_order = i == 0 or (i == count - 1 and count < 15)
        r = np.inf if first_order else (lam[i] - lam[i - 1]) / h
        D = (1 + 1 / (2 * r)) * x0[-1] - 1 / (2 * r) * (x0[-2] if i else 0)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * np.expm1(-h) * D
    got, _, steps = sample(config, "dpmpp_2m", count, partial(toy_network, jnp), draw())
    np.testing.assert_array_equal(steps.timesteps, t[:-1])
    assert relative_error(got, x) < 2e-5


@pytest.mark.parametrize("name", SAMPLERS)
def test_state_stays_fp32_and_nothing_recompiles(name):
    schedule, sampler = NoiseSchedule.from_config(SD15), make_sampler(name, SD15)
    steps = sampler.plan(schedule, 4)
    traces = []

    @partial(jax.jit, static_argnums=0)
    def run(sampler, noise, steps):
        traces.append(1)

        def call(state, step):
            prediction = sampler.model_input(state, step).astype(jnp.bfloat16)
            return sampler.update(state, prediction, step, noise.astype(jnp.float32)), None

        return sampler.finalize(jax.lax.scan(call, sampler.initialize(noise, steps), steps)[0])

    noise = jnp.asarray(draw(), jnp.bfloat16)
    assert run(sampler, noise, steps).dtype == jnp.float32
    # An equal new sampler and a plan from another schedule are the same program.
    other = NoiseSchedule.from_config(SD15 | {"beta_end": 0.02})
    run(make_sampler(name, SD15), noise, make_sampler(name, SD15).plan(other, 4))
    assert len(traces) == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_start_has_the_variance_that_the_network_expects(name):
    schedule, sampler = NoiseSchedule.from_config(SD15), make_sampler(name, SD15)
    steps = sampler.plan(schedule, 20)
    row = jax.tree.map(lambda values: values[0], steps)
    noise = jnp.asarray(draw((4, 16, 16, 4)))
    seen = sampler.model_input(sampler.initialize(noise, steps), row)
    assert abs(float(seen.std() / noise.std()) - 1) < 0.01


def test_one_step_from_where_there_is_no_noise_warns():
    schedule = NoiseSchedule.from_config(SD15)
    with pytest.warns(UserWarning, match="start at timestep 1 of 1000"):
        make_sampler("ddim", SD15).plan(schedule, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in SAMPLERS:
            make_sampler(name, SD15, timestep_spacing="trailing").plan(schedule, 1)
            make_sampler(name, SD15).plan(schedule, 2)
