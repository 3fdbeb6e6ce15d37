# SPDX-License-Identifier: Apache-2.0
"""What crosses between chips in a compiled train step: `python collectives.py MODEL FSDP CONCEPTS`.

Prints JSON: the tables' bytes, and for each kind of collective the bytes of its results.
"""

import json
import sys
from typing import Any
from unittest import mock

import jax

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.planning.collectives import collective_bytes
from mrti_jax.training import Subject, learn_many


def main(folder: str, fsdp: int, num_concepts: int) -> None:
    sd = StableDiffusion.load(folder, mesh=make_mesh(fsdp=fsdp))

    def report_instead(
        train_step: Any, state: Any, frozen: Any, data: Any, rates: Any, **_: Any
    ) -> None:
        weights = jax.tree.leaves(frozen)
        found = {
            "table": state["table"].nbytes,
            "photos": data.moments.nbytes,
            "photos per device": data.moments.addressable_shards[0].data.nbytes,
            "weights": sum(leaf.nbytes for leaf in weights),
            "weights per device": sum(leaf.addressable_shards[0].data.nbytes for leaf in weights),
            "collectives": collective_bytes(
                train_step.lower(state, frozen, data, rates).compile().as_text()
            ),
        }
        print(json.dumps(found))
        sys.exit()

    subjects = [
        Subject(images="sample", name=f"jane{number}", initializer="star")
        for number in range(num_concepts)
    ]
    with mock.patch("mrti_jax.training.loop.compile_ahead", report_instead):
        learn_many(sd, subjects)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
