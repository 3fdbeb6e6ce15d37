# SPDX-License-Identifier: Apache-2.0
"""Describes a stored model in words, from its headers and configs, without its weights."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from mrti_jax.diffusion.samplers import own_sampler
from mrti_jax.diffusion.schedule import NoiseSchedule
from mrti_jax.errors import UserError
from mrti_jax.models.checkpoint import mismatches
from mrti_jax.models.frozen import OneKey, abstract, without_weights
from mrti_jax.models.memory import kept_bytes, sampling_bytes, training_bytes
from mrti_jax.models.parts import DTYPES, build_part, check_widths, part_dtype, read_configs
from mrti_jax.models.stored.find import is_on_hub, tokenizer_folder
from mrti_jax.models.stored.folder import TOKENIZERS
from mrti_jax.models.stored.model import StoredModel, StoredModule
from mrti_jax.models.tokenizer import load_tokenizer
from mrti_jax.models.unet import UNet2DConditionModel

# The release that a model descends from, by the width of its text states.
_FAMILIES = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    2048: "Stable Diffusion XL",
}
_GB = 1e9
WRONG = "WRONG: "
"""Starts a line that says why a model can't be used."""
# How many tensors of each part are named.
_SHOWN = 3


def describe(name: str, stored: StoredModel) -> list[str]:
    """Lines on what the model is, what is wrong with it, and what memory it needs.

    Raises:
        UserError: a config asks for something that is not supported.
    """
    modules = stored.modules
    configs = read_configs(modules)
    unet, vae = configs["unet"], configs["vae"]
    side = unet.sample_size * vae.downscale
    family = _FAMILIES.get(unet.cross_attention_dim, "none of the released ones")
    predicts = stored.scheduler_config.get("prediction_type", "epsilon")
    lines = [
        f"{name}: {stored.layout}",
        f"family: {family}; predicts {predicts}; made for {side} x {side} px",
    ]
    sampler, problem = own_sampler(stored.scheduler_config)
    if problem:
        lines.append(f"note: its own sampler can't be used, so {sampler} is: {problem}")
    lines += [
        f"note: {part}: that of {words.where} on the Hub, which is not checked"
        for part, words in stored.tokenizers.items()
        if is_on_hub(words.where)
    ]
    lines += ["", *_table(modules), ""]
    lines += _problems(stored, configs)
    lines += ["", *_memory(modules, configs, side)]
    return lines


def _table(modules: Mapping[str, StoredModule]) -> list[str]:
    rows = [("part", "parameters", "on disk", "stored as")]
    for part, module in modules.items():
        stored_as = Counter[str]()
        for tensor in module.tensors.values():
            stored_as[tensor.dtype.name] += tensor.size
        size = sum(tensor.size * tensor.dtype.itemsize for tensor in module.tensors.values())
        dtypes = ", ".join(dtype for dtype, _ in stored_as.most_common())
        rows.append((part, f"{_parameters(module) / 1e6:.1f} M", _size(size), dtypes))
    total = sum(map(_parameters, modules.values()))
    rows.append(("all", f"{total / 1e6:.1f} M", "", ""))
    return [f"{a:14} {b:>12} {c:>10}  {d}".rstrip() for a, b, c, d in rows]


def _problems(stored: StoredModel, configs: Mapping[str, Any]) -> list[str]:
    """Lines on why the model can't be used, and on what in it is unused."""
    lines = []
    for part, module in stored.modules.items():
        _, weights = abstract(partial(build_part, part, configs[part], jnp.float32))
        found = mismatches(weights, module.tensors)
        lines += [f"{WRONG}{part}: {problem}" for problem in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"{WRONG}{part}: {len(found) - _SHOWN} more such tensors")
    lines += _refused("widths", partial(check_widths, configs))
    lines += _refused("scheduler", partial(NoiseSchedule.from_config, stored.scheduler_config))
    for part, name in TOKENIZERS.items():
        words = stored.tokenizers.get(name)
        if words is not None and not is_on_hub(words.where):
            text = configs[part]
            lines += _refused(name, partial(load_tokenizer, tokenizer_folder(words), text=text))
    if stored.unused:
        more = len(stored.unused) - _SHOWN
        rest = f" and {more} more" if more > 0 else ""
        lines.append(f"unused: {', '.join(stored.unused[:_SHOWN])}{rest}")
    return lines or ["tensors: all present, none unused"]


def _refused(what: str, check: Callable[[], object]) -> list[str]:
    """A line with the error that a check raises; none if it raises none."""
    try:
        check()
    except UserError as error:
        return [f"{WRONG}{what}: {error}"]
    return []


def _memory(
    modules: Mapping[str, StoredModule], configs: Mapping[str, Any], side: int
) -> list[str]:
    unet, text_length = configs["unet"], configs["text_encoder"].max_position_embeddings
    rows: list[tuple[str, ...]] = [("memory on the device, estimated", *DTYPES)]
    sample, train = [f"to draw a picture of {side} px"], [f"to train, an example of {side} px"]
    build = partial(UNet2DConditionModel, unet, dtype=jnp.float32, rngs=OneKey())
    latent_shape = (unet.sample_size, unet.sample_size, unet.in_channels)
    kept = kept_bytes(without_weights(unet, build), latent_shape, text_length)
    for dtype in DTYPES:
        itemsizes = {part: part_dtype(config, dtype).itemsize for part, config in configs.items()}
        weights = {part: _parameters(modules[part]) * size for part, size in itemsizes.items()}
        itemsize, everything = itemsizes["unet"], sum(weights.values())
        in_sample = sampling_bytes(unet, configs["vae"], everything, itemsize, itemsizes["vae"])
        # Half as much at half the precision, which needs no second trace.
        kept_now = kept * itemsize // jnp.dtype(jnp.float32).itemsize
        sample.append(_size(in_sample))
        train.append(_size(training_bytes(unet, kept_now, everything - weights["vae"])))
    rows += [tuple(sample), tuple(train)]
    return [f"{first:34}" + "".join(f"{cell:>12}" for cell in rest) for first, *rest in rows]


def _size(count: int) -> str:
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / 1e6:.0f} MB"


def _parameters(module: StoredModule) -> int:
    return sum(tensor.size for tensor in module.tensors.values())
