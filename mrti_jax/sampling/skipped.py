# SPDX-License-Identifier: Apache-2.0
"""A warning if a sampler has so few steps that it skips rows that a prompt asks for."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from mrti_jax.concept import Concept, bucket_from_boundaries, read_prompt, rows
from mrti_jax.diffusion import NoiseSchedule, Sampler
from mrti_jax.errors import UserError, warn

Rows = tuple[int | None, ...]


def warn_of_skipped_buckets(
    texts: Iterable[str],
    concepts: Mapping[str, Concept],
    schedule: NoiseSchedule,
    sampler: Sampler,
    num_steps: int,
    official_semi: bool = False,
) -> None:
    """Warns, once per concept, of buckets whose row its words ask for but no step uses."""
    wanted: dict[str, list[Rows]] = {}
    for word in (word for text in texts for word in read_prompt(text, concepts).words):
        own = rows(word, concepts[word.name].num_buckets, official_semi)
        wanted.setdefault(word.name, []).append(own)
    for name, words in wanted.items():

        def skipped(count: int, words: list[Rows] = words, name: str = name) -> list[int]:
            timesteps = np.asarray(sampler.plan(schedule, count).timesteps)
            buckets = bucket_from_boundaries(timesteps, concepts[name].boundaries)
            return _skipped(words, np.asarray(buckets))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler's own warnings have been given already
            missing = skipped(num_steps)
            if not missing:
                continue
            enough = _enough(skipped, range(num_steps + 1, schedule.num_train_timesteps + 1))
        plural = "s" if len(missing) > 1 else ""
        steps = "1 step skips" if num_steps == 1 else f"{num_steps} steps skip"
        warn(
            f"{steps} bucket{plural} {', '.join(map(str, missing))} of <{name}>: what was learned "
            "there has no effect" + (f"; {enough} steps reach all of them" if enough else "")
        )


def _skipped(words: Sequence[Rows], buckets: Int[np.ndarray, "calls"]) -> list[int]:
    """The buckets whose row a word asks for but uses at none of the calls."""
    met = np.unique(buckets).tolist()
    missing: set[int] = set()
    for wanted in words:
        used = {wanted[bucket] for bucket in met} | {None}
        missing |= {bucket for bucket, row in enumerate(wanted) if row not in used}
    return sorted(missing)


def _enough(skipped: Callable[[int], list[int]], counts: Iterable[int]) -> int | None:
    """The first number of steps that skips nothing."""
    try:
        return next((count for count in counts if not skipped(count)), None)
    except UserError:  # more steps than the sampler supports
        return None
