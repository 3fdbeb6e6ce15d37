# SPDX-License-Identifier: Apache-2.0
"""Devices and processes as one: mesh, start-up, preemption."""
