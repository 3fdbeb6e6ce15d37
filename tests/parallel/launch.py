# SPDX-License-Identifier: Apache-2.0
"""Commands as several real processes, which find each other by addresses, or as Slurm says."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Seconds; only processes that hang take this long, however busy the machine.
PATIENCE = 600

Process = subprocess.Popen[str]
Ended = tuple[int, str, str]


def start(
    command: Sequence[str],
    num_processes: int = 1,
    devices_each: int = 2,
    folders: Sequence[Path] = (),
) -> list[Process]:
    """`python -m COMMAND` as several processes of one run, each in its folder if there are any."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def one(index: int) -> Process:
        place = [
            f"--coordinator=127.0.0.1:{port}",
            f"--num-processes={num_processes}",
            f"--process-id={index}",
        ]
        given = [*command, *(place if num_processes > 1 else [])]
        folder = folders[index] if folders else None
        return _python("-u", "-m", *given, folder=folder, JAX_NUM_CPU_DEVICES=str(devices_each))

    return [one(index) for index in range(num_processes)]


def start_by_slurm(script: Path, *arguments: str, num_processes: int) -> list[Process]:
    """`python SCRIPT` as `num_processes` tasks of a job on this machine."""
    job = {
        "SLURM_JOB_ID": str(os.getpid()),  # JAX's choice of a port
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(num_processes),
    }
    return [
        _python(str(script), *arguments, **job, SLURM_PROCID=str(index), SLURM_LOCALID=str(index))
        for index in range(num_processes)
    ]


def _python(*arguments: str, folder: Path | None = None, **environment: str) -> Process:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"NPROC": "16", "PYTHONPATH": os.getcwd()} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: Sequence[Process]) -> list[Ended]:
    """Exit status, stdout and stderr of each; none of them is left running."""
    try:
        ended = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, ended, strict=True)]
