# SPDX-License-Identifier: Apache-2.0
"""The progress bar of pictures being drawn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def drawing_bar(*, disable: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; yields a function to call with the numbers of pictures done and in all.

    `disable`: as in tqdm; None shows a bar on terminals only.
    """
    with tqdm(desc="drawing", unit="picture", disable=disable) as bar:

        def update(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield update
