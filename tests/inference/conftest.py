"""What tests of the classes for tasks share."""

from __future__ import annotations

import pytest

from edgedistil.inference.exported_model import ExportedModel, Outputs


@pytest.fixture
def nan_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every output of every graph NaN."""
    run = ExportedModel.run

    def damaged(*arguments: object, **more: object) -> Outputs:
        return {name: values * float("nan") for name, values in run(*arguments, **more).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(ExportedModel, "run", damaged)
