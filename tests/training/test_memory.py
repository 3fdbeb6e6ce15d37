# SPDX-License-Identifier: Apache-2.0
"""When the gradient recomputes blocks, and that this changes nothing else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrti_jax.models.memory import kept_bytes
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.models.text_encoder import TextStates
from mrti_jax.training.learning import learn
from mrti_jax.training.memory import fitting_concepts, needs_remat


def kept(sd: StableDiffusion, latent_shape: tuple[int, int, int]) -> int:
    return kept_bytes(sd.unet, latent_shape, 77, sd.mesh.size)


def test_a_step_that_would_not_fit_computes_blocks_again(
    tiny_sd: StableDiffusion, make_config: Callable
):
    shape = (8, 8, 4)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny_sd.params))
    # Each of two devices has half of the 4 examples.
    needed = weights + 2 * kept(tiny_sd, shape)

    def decided(remat: str, limit: int | None) -> bool:
        return needs_remat(tiny_sd, make_config(train={"remat": remat}), shape, limit)

    assert decided("auto", needed) and not decided("auto", 2 * needed)
    assert not decided("auto", None) and not decided("none", 1) and decided("blocks", None)


def test_as_many_concepts_as_fit(tiny_sd: StableDiffusion, make_config: Callable):
    shape = (8, 8, 4)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny_sd.params))
    limit = weights + int(1.25 * 10.9 * kept(tiny_sd, shape))  # 10 examples, with the slack
    config = make_config()
    # On two devices 20 examples, of which each concept has 4.
    assert fitting_concepts(tiny_sd, config, shape, limit) == 5
    assert fitting_concepts(tiny_sd, config, shape, weights) == 1
    assert not needs_remat(tiny_sd, config, shape, limit, 5)
    assert needs_remat(tiny_sd, config, shape, limit, 6)


def test_kept_bytes_grow_with_the_picture(tiny_sd: StableDiffusion):
    """Four times the positions keep four times as much, except for the prompt's keys, and nothing
    keeps attention's logits, which are sixteen times as many."""
    ratio = kept(tiny_sd, (16, 16, 4)) / kept(tiny_sd, (8, 8, 4))
    assert 3 < ratio <= 4


def test_kept_bytes_are_most_of_what_the_gradient_holds(tiny_sd: StableDiffusion):
    """As the compiler says, which needs up to three times as much, with few optimizations."""
    width = tiny_sd.unet.config.cross_attention_dim

    def loss(states: TextStates, params: Any, latents: Any, time: Any, sizes: Any) -> Any:
        unet = tiny_sd.unet.bind(params)
        return jnp.sum(jnp.square(unet(latents, time, states.hidden, states.pooled, sizes)))

    def held(batch: int) -> int:
        def floats(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch, *shape), jnp.float32)

        states = TextStates(floats(77, width), None)
        arguments = (states, tiny_sd.unet.params, floats(16, 16, 4), floats(), floats(6))
        compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    estimated = kept_bytes(tiny_sd.unet, (16, 16, 4), 77)
    assert estimated < (held(4) - held(2)) / 2 < 4 * estimated


@pytest.mark.slow
def test_remat_changes_nothing_but_rounding(
    tiny_sd: StableDiffusion, pictures: list[np.ndarray], make_config: Callable
):
    plain, again = (
        learn(
            tiny_sd,
            pictures,
            name="jane",
            initializer="star",
            config=make_config(concept={"num_buckets": 2}, train={"remat": remat, "steps": 2}),
        ).embeddings
        for remat in ("none", "blocks")
    )
    # Adam's first updates are nearly signs: float32 rounding of small gradients is enlarged.
    assert plain == pytest.approx(again, rel=0, abs=2e-5)
