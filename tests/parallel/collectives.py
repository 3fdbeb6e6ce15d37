# SPDX-License-Identifier: Apache-2.0
"""What crosses between chips in a compiled train step: `python collectives.py MODEL FSDP`.

Prints JSON: the table's bytes, and for each kind of collective the bytes of its results.
"""

import json
import sys
from typing import Any
from unittest import mock

import jax

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.parallel.collectives import collective_bytes
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.training import learn


def main(folder: str, fsdp: int) -> None:
    sd = StableDiffusion.load(folder, mesh=make_mesh(fsdp=fsdp))

    def report(train_step: Any, state: Any, frozen: Any, data: Any, *_: Any, **__: Any) -> Any:
        """In place of the training."""
        weights = jax.tree.leaves(frozen)
        compiled = train_step.lower(state, frozen, data).compile()
        found = {
            "table": state["table"].nbytes,
            "weights": sum(leaf.nbytes for leaf in weights),
            "weights per device": sum(leaf.addressable_shards[0].data.nbytes for leaf in weights),
            "collectives": collective_bytes(compiled.as_text()),
        }
        print(json.dumps(found))
        sys.exit()

    with mock.patch("mrti_jax.training.learning.train", report):
        learn(sd, "sample", name="jane", initializer="star")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
