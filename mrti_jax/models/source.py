# SPDX-License-Identifier: Apache-2.0
"""Where a model comes from, and what its files don't say; apart from what reads them, so that
`--help` needs neither JAX nor its dtypes."""

from dataclasses import dataclass, fields
from typing import Any, Literal

MINI = "mini"
UNetPrediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True)
class SourcePath:
    """Where a model is."""

    path: str = MINI
    """A diffusers folder, a single .safetensors or .ckpt file, a Hub id (owner/model), or `mini`,
    the embedded model."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What a model needs besides its path."""

    revision: str | None = None
    """Branch, tag or commit on the Hub; the main branch if not given."""
    variant: str | None = None
    """Variant of the weights, such as fp16 (a folder or the Hub); the plain ones if not given."""
    tokenizer: str | None = None
    """A folder or Hub id to take the tokenizer from; the model's own if not given, and for a single
    file, which has none, that of openai/clip-vit-large-patch14."""
    prediction_type: UNetPrediction | None = None
    """What the U-Net predicts; what the model's files say if not given."""

    @property
    def options(self) -> dict[str, Any]:
        """These options by name."""
        return {field.name: getattr(self, field.name) for field in fields(SourceOptions)}


@dataclass(frozen=True, kw_only=True)
class ModelSource(SourceOptions, SourcePath):
    """Where a model comes from, and what its files don't say."""

    @property
    def name(self) -> str:
        """The path, with the revision if there is one: `org/model@revision`."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"
