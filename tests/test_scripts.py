# SPDX-License-Identifier: Apache-2.0
"""What a script is told in Python: values of the wrong type, each in one line, and where a warning
comes from. In processes of their own, without the tests' check of annotations."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import numpy as np
from mrti_jax import Concept, Config, StableDiffusion, UserError, generate, learn, sweep
from mrti_jax.training import TrainConfig

sd = StableDiffusion.load(sys.argv[1])
jane = Concept("jane", np.zeros((2, 1, 32), np.float32), np.array([0, 500, 1000], np.int32))

def draw(**options):
    return generate(sd, "a <jane>", **({"concepts": jane, "num_steps": 1} | options))

def as_json(pictures):
    json.dumps([picture.parameters for picture in pictures])

def train(**settings):
    config = Config(train=TrainConfig(**settings))
    learn(sd, "sample", name="jane", initializer="dog", config=config)

def told(body):
    try:
        body()
    except UserError as error:
        return str(error)

print(json.dumps([
    told(lambda: StableDiffusion.load(sys.argv[1], attention="spalsh")),
    told(lambda: draw(vae_slicing="of")),
    told(lambda: draw(nothing="pad")),
    told(lambda: draw(seeds=[1.5, 2])),
    told(lambda: draw(num_steps=2.5)),
    told(lambda: draw(height=64.0)),
    told(lambda: learn(sd, "sample", name="jane", initializer=None)),
    told(lambda: sweep(sd, "a <jane[{k}]>", jane, rows="scheme")),
    told(lambda: as_json(draw(num_steps=np.int64(1), guidance_scale=np.float32(2)))),
    told(lambda: draw(concepts="runs/jane")),
    told(lambda: draw(concepts=["jane"])),
    told(lambda: train(timesteps="even")),
    told(lambda: train(steps="100")),
]))
"""


def test_wrong_types_are_told(tiny_folder: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_folder)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [
        "attention is 'spalsh', but must be one of auto, xla, chunked, cudnn, splash; did you mean "
        "'splash'?",
        "vae_slicing is 'of', but must be one of auto, on, off; did you mean 'off'?",
        "nothing is 'pad', but must be one of zero, drop, initializer",
        "a seed must be a whole number, not 1.5",
        "the number of steps must be a whole number, not 2.5",
        "height must be a whole number, not 64.0",
        "the initializer is empty, but must be a word",
        "rows is 'scheme', but must be one of seeds, schemes; did you mean 'schemes'?",
        None,
        "'runs/jane' is not a concept, but Concept.load reads one from a file",
        "'jane' is not a concept, but Concept.load reads one from a file",
        "config: 'train.timesteps' is 'even', but must be one of uniform, stratified",
        "config: 'train.steps' is '100', but must be a whole number",
    ]


def test_a_warning_is_of_the_line_that_led_to_it(tiny_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\nfrom mrti_jax import StableDiffusion, generate\n"
        "sd = StableDiffusion.load(sys.argv[1])\n"
        "generate(sd, 'a dog', negative_prompt='a cat', guidance_scale=1, num_steps=1)\n"
    )
    ran = subprocess.run(
        [sys.executable, script, str(tiny_folder)], capture_output=True, text=True, check=True
    )
    assert f"{script}:4: UserWarning: a guidance scale of 1 means no guidance" in ran.stderr
