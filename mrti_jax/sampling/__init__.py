# SPDX-License-Identifier: Apache-2.0
"""Prompts and concepts -> pictures: the compiled loop, grids and PNG files."""

from mrti_jax.sampling.generate import Picture, generate
from mrti_jax.sampling.sweep import Sweep, sweep

__all__ = ["Picture", "Sweep", "generate", "sweep"]
