# SPDX-License-Identifier: Apache-2.0
"""Schedules and whole trajectories against PyTorch diffusers."""

import importlib
import json
import sys
import warnings
from functools import partial
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.diffusion import NoiseSchedule, make_sampler, own_sampler
from mrti_jax.errors import UserError

from .reference import SD15, SD21, draw, relative_error, sample, toy_network

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*"),
]

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}
# fp32 against fp32: the reference rounds its coefficients at each step, these are from fp64.
TOLERANCE = 2e-5
# At zero terminal SNR the reference's latents begin near 4096 in the Euler family, and its fp32
# differences keep 3 digits less.
ZERO_SNR_TOLERANCE = 1e-4


def reference_run(config, name, count, noise, fresh, eta, monkeypatch):
    """The reference's own loop: all latents and timesteps."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    class_name, forced = SCHEDULERS[name]
    scheduler = getattr(diffusers, class_name).from_config(config, **forced)
    scheduler.set_timesteps(count)
    if config.get("beta_schedule") == "squaredcos_cap_v2" and name == "dpmpp_2m_karras":
        scheduler.set_begin_index(0)  # the first timestep repeats, and it would begin at the second
    draws = iter(torch.from_numpy(fresh))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
        lambda *args, **kwargs: next(draws),
    )
    latents = torch.from_numpy(noise) * scheduler.init_noise_sigma
    trail = []
    for t in scheduler.timesteps:
        prediction = toy_network(torch, scheduler.scale_model_input(latents, t), t.float())
        more = {"eta": eta, "variance_noise": next(draws)} if name == "ddim" and eta else {}
        latents = scheduler.step(prediction, t, latents, **more).prev_sample
        trail.append(latents.numpy())
    return np.stack(trail), scheduler.timesteps.numpy()


def check(config, name, count, monkeypatch, **options):
    noise, fresh = draw(), draw((count + 1, 2, 6, 5, 4), seed=1)
    eta = options.get("eta", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, timesteps = reference_run(config, name, count, noise, fresh, eta, monkeypatch)
        latents, trail, steps = sample(
            config,
            name,
            count,
            partial(toy_network, jnp),
            noise,
            fresh[: len(timesteps)],
            **options,
        )
    if name == "euler_karras":
        # Interpolated in a logarithm, in fp32 there and in fp64 here.
        np.testing.assert_allclose(steps.timesteps, timesteps, atol=0.01)
    else:
        np.testing.assert_array_equal(steps.timesteps, timesteps)
    error = max(relative_error(*pair) for pair in zip(trail, want, strict=True))
    print(f"PARITY {name} {count} {error:.1e}")
    zero_snr = config.get("rescale_betas_zero_snr", False)
    assert error < (ZERO_SNR_TOLERANCE if zero_snr else TOLERANCE)
    np.testing.assert_array_equal(latents, trail[-1])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20, 50])
@pytest.mark.parametrize("config", [SD15, SD21], ids=["sd15", "sd21"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_trajectory(name, config, count, monkeypatch):
    check(config, name, count, monkeypatch)


@pytest.mark.parametrize("count", [1, 7, 20])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_trajectory_with_each_spacing(name, spacing, count, monkeypatch):
    check(SD21 | {"timestep_spacing": spacing}, name, count, monkeypatch)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddim", {"clip_sample": True, "clip_sample_range": 1.5}),
        ("ddim", {"set_alpha_to_one": True, "steps_offset": 0}),
        ("ddim", {"prediction_type": "sample"}),
        ("ddim", {"beta_schedule": "squaredcos_cap_v2"}),
        ("ddim", {"beta_schedule": "linear", "num_train_timesteps": 500}),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("pndm", {"set_alpha_to_one": True, "steps_offset": 0}),
        ("euler", {"prediction_type": "sample"}),
        ("euler", {"final_sigmas_type": "sigma_min"}),
        ("euler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("euler_ancestral", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "linspace"}),
        ("euler_karras", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("dpmpp_2m_karras", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("dpmpp_2m", {"prediction_type": "sample"}),
        ("dpmpp_2m", {"final_sigmas_type": "sigma_min"}),
        ("dpmpp_2m", {"final_sigmas_type": "sigma_min", "euler_at_final": True}),
        ("dpmpp_2m", {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
        ("dpmpp_2m", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("dpmpp_2m_karras", {"final_sigmas_type": "sigma_min"}),
        ("dpmpp_2m_karras", {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
@pytest.mark.parametrize("count", [10, 20])
def test_trajectory_with_options(name, changes, count, monkeypatch):
    check(SD21 | changes, name, count, monkeypatch)


@pytest.mark.parametrize("count", [14, 15])
def test_few_steps_end_at_first_order(count, monkeypatch):
    check(SD21 | {"final_sigmas_type": "sigma_min"}, "dpmpp_2m", count, monkeypatch)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("config", [SD15, SD21], ids=["sd15", "sd21"])
def test_ddim_with_eta(config, eta, monkeypatch):
    check(config, "ddim", 20, monkeypatch, eta=eta)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", ["ddim", "pndm", "euler", "dpmpp_2m"])
def test_timesteps_for_every_number_of_steps(name, spacing):
    diffusers = pytest.importorskip("diffusers")
    config = SD15 | {"timestep_spacing": spacing, "steps_offset": 0}
    class_name, forced = SCHEDULERS[name]
    scheduler = getattr(diffusers, class_name).from_config(config, **forced)
    schedule, sampler = NoiseSchedule.from_config(config), make_sampler(name, config)
    for count in range(120, 500, 7):
        scheduler.set_timesteps(count)
        steps = sampler.plan(schedule, count)
        # For some counts the reference's "trailing" goes one too far, to timestep -1.
        want = scheduler.timesteps.numpy()
        np.testing.assert_array_equal(steps.timesteps, want[want >= 0])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": list(np.geomspace(1e-4, 3e-2, 1000))},
        {"rescale_betas_zero_snr": True},
    ],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_schedule(changes, prediction_type):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = SD15 | changes | {"prediction_type": prediction_type}
    scheduler = diffusers.DDIMScheduler.from_config(config)
    schedule = NoiseSchedule.from_config(config)
    want = scheduler.alphas_cumprod.numpy()
    error = relative_error(schedule.alphas_cumprod, want)
    worst = np.max(np.abs(schedule.alphas_cumprod - want) / np.maximum(want, 1e-30))
    print(f"PARITY schedule {error:.1e} of the maximum, {worst:.1e} of each")
    assert error < 1e-6
    # Each value by itself, even the small ones at the end; rescaling to zero cancels digits there.
    assert worst < (1e-3 if "rescale_betas_zero_snr" in changes else 1e-6)

    latents, noise = draw((5, 3, 3, 4)), draw((5, 3, 3, 4), seed=1)
    t = np.array([0, 1, 500, 998, 999], np.int32)
    tensors = torch.from_numpy(latents), torch.from_numpy(noise), torch.from_numpy(t).long()
    arrays = jnp.asarray(latents), jnp.asarray(noise), jnp.asarray(t)
    target = scheduler.get_velocity(*tensors) if prediction_type == "v_prediction" else tensors[1]
    assert relative_error(schedule.add_noise(*arrays), scheduler.add_noise(*tensors)) < 1e-6
    assert relative_error(schedule.target(*arrays), target) < 1e-6


def test_name_and_defaults_are_those_of_a_config_written_by_the_reference(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    for name, (class_name, forced) in SCHEDULERS.items():
        scheduler = getattr(diffusers, class_name)(**forced)
        scheduler.save_config(tmp_path)
        config = scheduler.load_config(tmp_path)
        assert own_sampler(config) == (name, "")
        assert make_sampler(name, {}) == make_sampler(name, config)  # the same defaults


# As in diffusers' KarrasDiffusionSchedulers: those whose config a pipeline may come with.
CONFIGS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "pndm",
    "LMSDiscreteScheduler": "lms_discrete",
    "EulerDiscreteScheduler": "euler_discrete",
    "HeunDiscreteScheduler": "heun_discrete",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
    "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
    "KDPM2AncestralDiscreteScheduler": "k_dpm_2_ancestral_discrete",
    "DEISMultistepScheduler": "deis_multistep",
    "UniPCMultistepScheduler": "unipc_multistep",
    "DPMSolverSDEScheduler": "dpmsolver_sde",
    "EDMEulerScheduler": "edm_euler",
}
# What is computed otherwise than here: a warm-up with other steps; noise levels without betas, for
# which the reference's other schedulers take betas that the model has never seen.
REFUSED = {("pndm", "PNDMScheduler"): "skip_prk_steps is False"} | {
    (name, "EDMEulerScheduler"): "noise levels of another kind" for name in SCHEDULERS
}


def default_config(class_name, monkeypatch):
    """What a scheduler with all defaults writes into its `scheduler_config.json`."""
    pytest.importorskip("diffusers")
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))  # for steps, not options
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{CONFIGS[class_name]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return json.loads(getattr(module, class_name)().to_json_string())


def test_all_schedulers_that_pipelines_come_with_are_known():
    utils = pytest.importorskip("diffusers.schedulers.scheduling_utils")
    assert [scheduler.name for scheduler in utils.KarrasDiffusionSchedulers] == list(CONFIGS)


@pytest.mark.parametrize("class_name", CONFIGS)
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if not name.endswith("_karras")])
def test_a_default_config_of_another_scheduler(name, class_name, monkeypatch):
    config = default_config(class_name, monkeypatch)
    if told := REFUSED.get((name, class_name)):
        with pytest.raises(UserError, match=told):
            _ = NoiseSchedule.from_config(config), make_sampler(name, config)
        return
    if class_name == "DEISMultistepScheduler":  # the reference refuses to end it at zero
        config["final_sigmas_type"] = "sigma_min"
    config["clip_sample"] = False  # as pipelines have it
    check(config, name, 10, monkeypatch)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("num_train_timesteps", [250, 1000])
def test_karras_timesteps_for_every_number_of_steps(beta_schedule, num_train_timesteps):
    diffusers = pytest.importorskip("diffusers")
    config = {"beta_schedule": beta_schedule, "num_train_timesteps": num_train_timesteps}
    class_name, forced = SCHEDULERS["dpmpp_2m_karras"]
    scheduler = getattr(diffusers, class_name).from_config(config, **forced)
    schedule, sampler = NoiseSchedule.from_config(config), make_sampler("dpmpp_2m_karras", config)
    for count in range(1, 101):
        scheduler.set_timesteps(count)
        timesteps = sampler.plan(schedule, count).timesteps
        np.testing.assert_array_equal(timesteps, scheduler.timesteps.numpy())
