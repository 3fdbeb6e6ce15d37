# SPDX-License-Identifier: Apache-2.0
"""What a run wrote to its metrics.jsonl."""

import json
from pathlib import Path
from typing import Any


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Its lines."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(folder: Path) -> list[dict[str, Any]]:
    """Its lines, without what differs from run to run."""
    return [
        {key: line[key] for key in line if key != "examples_per_second"}
        for line in read_metrics(folder)
    ]
