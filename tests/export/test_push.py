from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, OfflineError
from edgedistil.core.rundir import tree_manifest
from edgedistil.export import push
from edgedistil.export.push import check_address, push_package

CARD = "# The complete card\n"


@pytest.fixture
def package(graphs: Path) -> Path:
    """A folder that counts as a package, with a card of its own."""
    (graphs / "provenance.json").write_text("{}\n")
    (graphs / "README.md").write_text("# The card of the export\n")
    return graphs


def test_a_push_to_a_folder_copies_everything_and_replaces_an_earlier_package(
    package: Path, tmp_path: Path
) -> None:
    target = tmp_path / "shelf of models" / "x"
    assert push_package(package, target.as_uri(), card=CARD) == target.as_uri()
    assert (target / "README.md").read_text() == CARD
    (package / "onnx" / "model_int8.onnx").unlink()
    push_package(package, target.as_uri(), card="# Newer\n")
    assert (target / "README.md").read_text() == "# Newer\n"
    assert tree_manifest(target).keys() == tree_manifest(package).keys()
    assert (package / "README.md").read_text() == "# The card of the export\n"


def test_a_push_does_not_touch_other_folders(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a package"):
        push_package(package, target.as_uri(), card=CARD)
    assert (target / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "address",
    [
        "someone",
        "a/b/c",
        "../x/y",
        "file://host/x",
        "file:relative",
        "file://[x",
        "https://hub/x/y",
        "a/" + "b" * 300,
        "a/b\x1b",
    ],
)
def test_an_invalid_address_is_refused(address: str, package: Path) -> None:
    with pytest.raises(InputError, match="cannot push to"):
        push_package(package, address, card=CARD)


@pytest.mark.parametrize("address", ["file:///a%00b", "file:///" + "x" * 300])
def test_a_path_that_no_folder_can_have(address: str) -> None:
    with pytest.raises(InputError, match="cannot be used as a path"):
        check_address(address)


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="exists and is not a package"):
        check_address((tmp_path / "x").as_uri())


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match=r"cannot be created: .*/x is a file"):
        check_address((tmp_path / "x" / "y" / "z").as_uri())


def test_an_address_is_checked_without_a_package(tmp_path: Path) -> None:
    assert check_address("me/model") is None
    assert check_address((tmp_path / "new").as_uri()) == tmp_path / "new"


def test_a_folder_that_is_not_a_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a package: it has no provenance\.json"):
        push_package(tmp_path, "me/model", card=CARD)


class StandInHub:
    """Records uploads instead of making them, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[object, ...]] = []

    def create_repo(self, repo: str, *, exist_ok: bool) -> str:
        if self.failure:
            raise self.failure
        self.calls.append((repo, exist_ok))
        return f"https://hub.invalid/{repo}"

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], commit_message: str
    ) -> None:
        self.calls.append((repo_id, folder_path, ignore_patterns))

    def upload_file(
        self, *, repo_id: str, path_or_fileobj: bytes, path_in_repo: str, commit_message: str
    ) -> None:
        self.calls.append((repo_id, path_in_repo, path_or_fileobj))


def test_a_push_to_the_hub_creates_the_repository_and_uploads_folder_and_card(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = StandInHub()
    monkeypatch.setattr(push, "HfApi", lambda: hub)
    assert push_package(package, "me/my-model", card=CARD) == "https://hub.invalid/me/my-model"
    assert hub.calls == [
        ("me/my-model", True),
        ("me/my-model", package, ["README.md"]),
        ("me/my-model", "README.md", CARD.encode()),
    ]


def test_a_hub_that_cannot_be_reached_is_an_offline_error(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "HfApi", lambda: StandInHub(ConnectionError("no route")))
    with pytest.raises(OfflineError, match=r"the hub cannot be reached: no route"):
        push_package(package, "me/my-model", card=CARD)
