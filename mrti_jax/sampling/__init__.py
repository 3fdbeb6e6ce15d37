# SPDX-License-Identifier: Apache-2.0
"""Prompts and concepts -> pictures: the compiled loop, grids and PNG files."""

from mrti_jax.sampling.generate import Picture, generate

__all__ = ["Picture", "generate"]
