# SPDX-License-Identifier: Apache-2.0
"""What `mrti_jax.diffusion` says about configs and options that it can't use."""

import pytest

from mrti_jax.diffusion import SAMPLERS, NoiseSchedule, make_sampler, own_sampler
from mrti_jax.errors import UserError

from .reference import SD15, SD21


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"beta_schedule": "scaled_liner"},
            "beta_schedule is 'scaled_liner'.*mean 'scaled_linear'",
        ),
        (
            {"prediction_type": "flow_prediction"},
            "prediction_type is 'flow_prediction', but must be one of",
        ),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler has noise levels of another"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch.*of another kind"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas has shape \[2\]"),
        ({"trained_betas": ["a"]}, "trained_betas is not a list of numbers"),
        ({"beta_start": None}, "beta_start is empty, not a number between 0 and 1"),
        ({"beta_end": "x"}, "beta_end is 'x', not a number between 0 and 1"),
        ({"beta_end": 1.5}, "beta_end is 1.5, not a number between 0 and 1"),
        ({"beta_end": 1}, "betas must lie between 0 and 1"),
        ({"beta_start": 10**400}, "beta_start is 1000.*, not a number between 0 and 1"),
        ({"trained_betas": [10**400]}, "trained_betas is not a list of numbers"),
        ({"num_train_timesteps": True}, "num_train_timesteps is True, not an integer"),
        ({"num_train_timesteps": 10**12}, "is 1000000000000, .* between 1 and 1000000"),
        ({"rescale_betas_zero_snr": "false"}, "rescale_betas_zero_snr is 'false', not true or"),
    ],
)
def test_schedule(changes, words):
    with pytest.raises(UserError, match=words):
        NoiseSchedule.from_config(SD15 | changes)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("ddim", {"thresholding": True}, "thresholding is True"),
        (
            "ddim",
            {"timestep_spacing": "linear"},
            "timestep_spacing is 'linear', but must be one of",
        ),
        ("ddim", {"steps_offset": "x"}, "steps_offset is 'x', not an integer"),
        (
            "ddim",
            {"steps_offset": 10**400},
            "steps_offset is 1000.*, not an integer between -1000000",
        ),
        ("ddim", {"clip_sample": 1}, "clip_sample is 1, not true or false"),
        ("ddim", {"clip_sample_range": None}, "clip_sample_range is empty, not a number"),
        ("pndm", {"skip_prk_steps": False}, "skip_prk_steps is False"),
        ("pndm", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ("euler", {"use_exponential_sigmas": True}, "use_exponential_sigmas is True"),
        ("euler", {"interpolation_type": "log_linear"}, "supports only 'linear'"),
        ("euler", {"final_sigmas_type": "one"}, "final_sigmas_type is 'one'"),
        ("dpmpp_2m", {"solver_order": 3}, "solver_order is 3, .* supports only 2"),
        ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type is"),
        ("dpmpp_2m", {"solver_type": "heun"}, "solver_type is 'heun'"),
        ("dpmpp_2m", {"use_lu_lambdas": True}, "use_lu_lambdas is True"),
        ("dpmpp_2m", {"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
        ("dpmpp_2m", {"solver_type": ["bh1"]}, r"solver_type is \['bh1'\]"),
    ],
)
def test_options_in_the_config(name, changes, words):
    with pytest.raises(UserError, match=words):
        make_sampler(name, SD15 | changes)


def test_options_of_the_caller():
    with pytest.raises(UserError, match=r"sampler is 'eulr', but must be.*mean 'euler'"):
        make_sampler("eulr", SD15)
    with pytest.raises(UserError, match=r"no option 'etta'.*mean 'eta'"):
        make_sampler("ddim", SD15, etta=1.0)
    with pytest.raises(UserError, match="eta is 2"):
        make_sampler("ddim", SD15, eta=2.0)
    with pytest.raises(UserError, match="Euler has no option 'eta': choose from prediction"):
        make_sampler("euler", SD15, eta=1.0)
    assert make_sampler("ddim", SD15, eta=1).stochastic
    assert make_sampler("ddim", SD15, steps_offset=0).steps_offset == 0


def test_pndm_config_without_the_key_means_runge_kutta():
    config = {key: value for key, value in SD15.items() if key != "skip_prk_steps"}
    with pytest.raises(UserError, match="skip_prk_steps is False"):
        make_sampler("pndm", config)
    make_sampler("pndm", config | {"_class_name": "DDIMScheduler"})


@pytest.mark.parametrize("count", [0, -1, 1001])
@pytest.mark.parametrize("name", SAMPLERS)
def test_number_of_steps(name, count):
    schedule = NoiseSchedule.from_config(SD15)
    with pytest.raises(UserError, match=f"number of steps is {count};.* 1 to 1000"):
        make_sampler(name, SD15).plan(schedule, count)


def test_steps_that_leave_the_schedule_or_repeat():
    schedule = NoiseSchedule.from_config(SD15)
    with pytest.raises(
        UserError, match=r"1000 trained timesteps: .*fewer .*scheduler_config\.json"
    ):
        make_sampler("ddim", SD15).plan(schedule, 1000)
    with pytest.raises(UserError, match="repeat a timestep"):
        make_sampler("dpmpp_2m", SD15, steps_offset=0).plan(schedule, 1000)


def test_no_signal_and_epsilon():
    config = SD15 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(
        UserError, match=r"sampler euler.*'v_prediction' in .*scheduler_config\.json"
    ):
        make_sampler("ddim", config).plan(NoiseSchedule.from_config(config), 10)
    make_sampler("euler", config).plan(NoiseSchedule.from_config(config), 10)  # as advised


@pytest.mark.parametrize(
    "options",
    [
        {"solver_type": "bh1"},
        {"solver_type": "bh2"},
        {"solver_type": "logrho", "algorithm_type": "deis"},
        {"variance_type": "fixed_small"},
        {"variance_type": "fixed_large_log"},
    ],
)
def test_options_of_other_schedulers_that_mean_the_same(options):
    assert make_sampler("dpmpp_2m", SD15 | options) == make_sampler("dpmpp_2m", SD15)


def test_karras_noise_levels_need_no_spacing():
    config = SD15 | {"timestep_spacing": "leading"}  # for 1000 steps, all at the first timestep
    schedule = NoiseSchedule.from_config(config)
    timesteps = make_sampler("dpmpp_2m_karras", config).plan(schedule, 1000).timesteps
    assert (timesteps[0], timesteps[-1]) == (999, 0)


def test_scheduler_classes():
    assert own_sampler(SD15) == ("pndm", "")
    assert own_sampler(SD21) == ("ddim", "")
    karras = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    assert own_sampler(karras) == ("dpmpp_2m_karras", "")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_class_name": "LCMScheduler"}, "_class_name is 'LCMScheduler', but must be one of DDIM"),
        ({"_class_name": ["DDIMScheduler"]}, "_class_name is ['DDIMScheduler'], but"),
        ({}, "_class_name is empty"),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "use_beta_sigmas"),
    ],
)
def test_another_sampler_where_the_own_is_not_known(config, told):
    name, problem = own_sampler(config)
    assert name == "ddim"
    assert told in problem


def test_null_is_no():
    config = SD15 | {"use_beta_sigmas": None}
    assert make_sampler("euler", config) == make_sampler("euler", SD15)
