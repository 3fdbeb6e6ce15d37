# SPDX-License-Identifier: Apache-2.0
"""The command `python -m mrti_jax.models`: describes a checkpoint without loading it."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from mrti_jax.commands import run_command
from mrti_jax.errors import UserError
from mrti_jax.files import to_path
from mrti_jax.flags import named
from mrti_jax.models.source import MINI, ModelSource, SourceOptions

PROG = "python -m mrti_jax.models"
DESCRIPTION = """Describes a model: family, sizes, dtypes, parameters, what its U-Net predicts,
what is missing, WRONG or unused in it, and an estimate of the memory that it needs. Neither reads
weights nor downloads those of a model on the Hub (except for .bin files). The exit status is 2 if
anything is WRONG."""


@dataclass(frozen=True, kw_only=True)
class Flags(SourceOptions):
    """The model to describe."""

    model: tyro.conf.Positional[Annotated[str, named("[MODEL]")]] = MINI
    """A diffusers folder, a single .safetensors or .ckpt file, a Hub id (owner/model), or 'mini',
    the embedded model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_command(Flags, _run, argv, prog=PROG, description=DESCRIPTION)


def _run(flags: Flags) -> None:
    from mrti_jax.models.stored.find import open_model

    source = ModelSource(path=flags.model, **flags.options)
    with tempfile.TemporaryDirectory() as outline:
        try:
            # First, so that refusing what is not a model needs no JAX.
            stored = open_model(source, to_path(outline))
            from mrti_jax.models.describe import WRONG, describe

            lines = describe(source.name, stored)
        except UserError as error:
            raise UserError(str(error).replace(outline, source.name)) from None
    print("\n".join(lines).replace(outline, source.name))
    if any(line.startswith(WRONG) for line in lines):
        raise UserError(f"{source.name} can't be used: see what is WRONG above")


if __name__ == "__main__":
    sys.exit(main())
