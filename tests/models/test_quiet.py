"""Progress bars and warnings are hidden inside the block and restored after it."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging

from edgedistil.models.quiet import quiet


def _state() -> tuple[int, bool, bool]:
    return (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    )


def test_everything_is_silent_inside_and_restored_after() -> None:
    before = _state()
    with quiet():
        assert _state() == (logging.CRITICAL, False, True)
    assert _state() == before


def test_an_error_restores_it_too() -> None:
    before = _state()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert _state() == before


def test_a_block_inside_a_block_stays_silent_to_its_end() -> None:
    with quiet():
        with quiet():
            pass
        assert _state() == (logging.CRITICAL, False, True)
