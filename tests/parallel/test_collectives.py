# SPDX-License-Identifier: Apache-2.0
"""What crosses between chips in a train step, read from the program compiled for 8 devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("collectives.py")


def measure(folder: Path, fsdp: int, num_concepts: int = 1) -> dict[str, Any]:
    environment = {"JAX_NUM_CPU_DEVICES": "8", "NPROC": "16", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(SCRIPT), str(folder), str(fsdp), str(num_concepts)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_with_whole_weights_only_the_gradient_and_the_loss_cross(tiny_folder: Path):
    measured = measure(tiny_folder, fsdp=1)
    assert measured["weights per device"] == measured["weights"]
    loss_and_examples_per_bucket = 2 * 4 * 10
    assert measured["collectives"] == {
        "all-reduce": measured["table"] + loss_and_examples_per_bucket
    }


@pytest.mark.long
def test_concepts_of_several_devices_have_nothing_to_tell_each_other(tiny_folder: Path):
    measured = measure(tiny_folder, fsdp=1, num_concepts=8)
    assert measured["photos per device"] == measured["photos"] // 8
    assert measured["collectives"] == {}


@pytest.mark.slow
def test_with_split_weights_they_are_gathered(tiny_folder: Path):
    measured = measure(tiny_folder, fsdp=4)
    held, whole = measured["weights per device"], measured["weights"]
    assert held < 0.5 * whole  # the tiny model has many weights that are too small to be split
    # All that is split is gathered at least once; some for the gradient again.
    assert measured["collectives"]["all-gather"] > whole - held
