# SPDX-License-Identifier: Apache-2.0
"""Compiling for TPUs on a machine without one, with the real TPU compiler (the package libtpu)."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding

from mrti_jax.errors import UserError
from mrti_jax.parallel.mesh import make_mesh
from mrti_jax.planning.chips import CHIPS
from mrti_jax.planning.collectives import collective_bytes
from mrti_jax.planning.traffic import memory_traffic

_GIB = 2**30


def tpu_mesh(chip: str, num_chips: int, *, fsdp: int = 1) -> Mesh:
    """A mesh of TPUs that need not exist: programs can be compiled for it but not run.

    `fsdp`: as in `make_mesh`. Raises UserError for an unknown chip, a number of chips that no slice
    has, and without libtpu.
    """
    if chip not in CHIPS:
        raise UserError(f"unknown chip '{chip}': choose from {', '.join(CHIPS)}")
    slices = CHIPS[chip].slices
    if num_chips not in {1, *slices}:
        known = ", ".join(map(str, [1, *slices]))
        raise UserError(f"there is no {chip} slice of {num_chips} chips: choose from {known}")
    # There is no TPU to ask for its metadata, and several compilers may run at once.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }.items():
        os.environ.setdefault(variable, value)
    name = f"{chip}:{slices[max(num_chips, min(slices))]}"
    try:
        topology = topologies.get_topology_desc(name, platform="tpu", **CHIPS[chip].options)
    except Exception as error:
        raise UserError(
            f"can't compile for {name}: {str(error).splitlines()[0]} (is libtpu installed? "
            "pip install libtpu, the version that fits jax: pip install 'jax[tpu]')"
        ) from None
    return make_mesh(topology.devices[:num_chips], fsdp=fsdp)


def on_mesh(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes and dtypes of arrays, as arguments to lower a jitted function with."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Caches nothing: JAX can't read back what was compiled for devices that aren't there."""
    folder = jax.config.values.get("jax_compilation_cache_dir")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the compiler says about a program, per chip.

    Attributes:
        bytes_accessed: with the body of a loop counted once, whatever its length. Bytes of on-chip
            memory count too.
        traffic: bytes to and from the chip's memory, see `memory_traffic`.
        arguments, temporaries: bytes of memory for what goes in, and for everything else.
        bytes_between: bytes that collectives bring from other chips, counted like `bytes_accessed`.
    """

    bytes_accessed: float
    traffic: float
    arguments: int
    temporaries: int
    bytes_between: int


class DoesNotFit(Exception):
    """The program needs more memory than the chip has: `needed` bytes in all."""

    def __init__(self, needed: float):
        super().__init__(f"needs {needed / _GIB:.2f} GiB")
        self.needed = needed


def compile_cost(lowered: jax.stages.Lowered) -> Cost:
    """Compiles a program. Raises DoesNotFit."""
    try:
        with _without_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([GM]) of [\d.]+G hbm", str(error))
        if used is None:
            raise
        raise DoesNotFit(float(used[1]) * (_GIB if used[2] == "G" else 2**20)) from None
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    text: Any = compiled.as_text()
    return Cost(
        bytes_accessed=cost["bytes accessed"],
        traffic=memory_traffic(text),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        bytes_between=sum(collective_bytes(text).values()),
    )
