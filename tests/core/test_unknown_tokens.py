"""Text that a vocabulary does not know is warned of, once."""

from __future__ import annotations

import pytest

from edgedistil.core import unknown_tokens
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens


@pytest.fixture(autouse=True)
def _no_earlier_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_tokens, "_warned", set())


def test_the_share_and_the_text_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        warn_of_unknown_tokens(421, 1000, text="the corpus")
    printed = capsys.readouterr().err
    assert printed.count("42% of the tokens of the corpus are unknown to the model's vocab") == 1


@pytest.mark.parametrize(("unknown", "total"), [(0, 0), (0, 10), (49, 1000)])
def test_text_of_the_models_language_is_not_warned_of(
    unknown: int, total: int, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_unknown_tokens(unknown, total, text="the corpus")
    assert capsys.readouterr().err == ""
