# SPDX-License-Identifier: Apache-2.0
"""Tests of the diffusion room; a package, so that they can share `reference.py`."""
