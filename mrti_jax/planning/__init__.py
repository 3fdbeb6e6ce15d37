# SPDX-License-Identifier: Apache-2.0
"""What programs cost on TPUs, without a TPU, by its compiler: FLOP, bytes, memory, minimum time."""
