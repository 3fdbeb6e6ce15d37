# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion's networks in Flax NNX, and reading their weights."""
