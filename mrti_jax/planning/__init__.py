# SPDX-License-Identifier: Apache-2.0
"""What programs cost on TPUs, by their compiler, without a TPU: FLOP, bytes, memory, least time."""
