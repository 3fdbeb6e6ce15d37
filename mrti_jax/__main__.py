# SPDX-License-Identifier: Apache-2.0
"""`python -m mrti_jax`: which commands there are."""

import sys

COMMANDS = """\
python -m mrti_jax.train          learn a word for what a few photos show
python -m mrti_jax.sample         draw pictures from prompts, with learned words
python -m mrti_jax.models         what a checkpoint is, and what is missing in it
python -m mrti_jax.plan           what a model and batch take on TPUs
python -m mrti_jax.mini.concepts  draw photos of a concept for the embedded model
python -m mrti_jax.mini.build     train a model like the embedded one

Each has --help."""

if __name__ == "__main__":
    print(COMMANDS)
    if sys.argv[1:]:  # such as `python -m mrti_jax train`
        sys.exit(2)
