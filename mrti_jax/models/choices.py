# SPDX-License-Identifier: Apache-2.0
"""What options of models may be, apart from the code that they choose, so that `--help` needs no
JAX."""

from typing import Literal, TypeAlias

AttentionKind: TypeAlias = Literal["xla", "chunked", "cudnn", "splash"]
AttentionChoice: TypeAlias = Literal["auto", AttentionKind]
