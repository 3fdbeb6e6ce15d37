# SPDX-License-Identifier: Apache-2.0
"""A warning if a sampler has so few steps that it skips rows that a prompt asks for."""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler's own warnings have been given already
            missing = _skipped(words, concepts[name], schedule, sampler, num_steps)
            if not missing:
                continue
            enough = _enough(words, concepts[name], schedule, sampler, num_steps)
        plural = "s" if len(missing) > 1 else ""
        warn(
            f"{num_steps} steps skip bucket{plural} {', '.join(map(str, missing))} of <{name}>: "
            "what was learned there has no effect"
            + (f"; {enough} steps reach all of them" if enough else "")
        )


def _skipped(
    words: Sequence[Rows],
    concept: Concept,
    schedule: NoiseSchedule,
    sampler: Sampler,
    num_steps: int,
) -> list[int]:
    """The buckets whose row a word asks for but uses at none of the steps."""
    timesteps = np.asarray(sampler.plan(schedule, num_steps).timesteps)
    met = np.unique(bucket_from_boundaries(timesteps, concept.boundaries)).tolist()
    missing: set[int] = set()
    for wanted in words:
        used = {wanted[bucket] for bucket in met} | {None}
        missing |= {bucket for bucket, row in enumerate(wanted) if row not in used}
    return sorted(missing)


def _enough(
    words: Sequence[Rows],
    concept: Concept,
    schedule: NoiseSchedule,
    sampler: Sampler,
    num_steps: int,
) -> int | None:
    """The smallest number of steps above `num_steps` that skips nothing."""
    for count in range(num_steps + 1, schedule.num_train_timesteps + 1):
        try:
            if not _skipped(words, concept, schedule, sampler, count):
                return count
        except UserError:  # more steps than the sampler supports
            return None
    return None
