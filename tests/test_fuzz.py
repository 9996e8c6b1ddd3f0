"""A few examples of what tests/fuzz_inputs.py tries for longer."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="hypothesis comes with the extra dev")

from fuzz_inputs import TARGETS, fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_what_comes_from_outside(name: str):
    fuzz(name, 0, 40)
