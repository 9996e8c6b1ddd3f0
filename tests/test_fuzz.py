"""A few examples of what tests/fuzz_inputs.py tries for longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("hypothesis", reason="hypothesis comes with the extra dev")

from hypothesis import seed, settings

from fuzz_inputs import SETTINGS, TARGETS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_what_comes_from_outside(target: Callable[[], None]):
    seed(0)(settings(SETTINGS, max_examples=40)(target))()
