# SPDX-License-Identifier: Apache-2.0
"""Models as users have them: on the Hub, as folders, as single files. Imports no JAX."""
