# SPDX-License-Identifier: Apache-2.0
"""The embedded miniature: a picture world, its tokenizer, its models and its checker."""
