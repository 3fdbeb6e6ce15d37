# SPDX-License-Identifier: Apache-2.0
"""Tests of `mrti_jax.diffusion`; a package, so that they can share `reference.py`."""
