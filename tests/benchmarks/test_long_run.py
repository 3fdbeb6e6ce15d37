# SPDX-License-Identifier: Apache-2.0
"""What a long training's memory and speed are compared by."""

import pytest

from benchmarks.long_run import tenths
from mrti_jax.errors import UserError


def test_the_second_tenth_against_the_last() -> None:
    assert tenths("the speed", [9, 9, 1, 3, *[9] * 14, 4, 8]) == (2, 6)
    assert tenths("the speed", list(range(10))) == (1, 9)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_to_compare(count: int) -> None:
    with pytest.raises(UserError, match=f"the speed was read {count} times, .* more --steps"):
        tenths("the speed", [1.0] * count)
