"""Uploads a package to a hub repository, or copies it to a folder given as a `file://` URL."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from edgedistil.core import console
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError, OfflineError
from edgedistil.core.model_card import CARD_FILE
from edgedistil.core.paths import user_path
from edgedistil.core.rundir import replacing, storage_errors, write_text

# The hub's rule for names of users and repositories.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def push_package(folder: Path, address: str, *, card: str) -> str:
    """Uploads a package.

    Args:
        folder: A folder that `write_package` wrote; not changed.
        address: `user/name` on the hub, created if it does not exist, or `file:///folder`.
        card: The model card, which replaces the folder's own.
    Returns:
        URL of the uploaded package.
    Raises:
        InputError: The address is invalid, the folder is not a package, or the user is not logged
            in or may not write there.
        OfflineError: The hub cannot be reached.
        StorageError: The destination folder cannot be written.
    """
    if not _is_package(folder):
        raise InputError(
            f"{folder} is not a package: it has no provenance.json",
            hint="create one with edgedistil export",
        )
    target = check_address(address)
    if target is None:
        return _push_to_hub(folder, address, card)
    return _push_to_folder(folder, target, card)


def check_address(address: str) -> Path | None:
    """Checks an address before there is anything to upload.

    Returns:
        The folder of a file:// URL; None for a repository of the hub.
    Raises:
        InputError: The address is invalid, or names a folder that is not a package.
    """
    if not address.startswith("file:"):
        if not _REPOSITORY.fullmatch(address):
            raise InputError(
                f"cannot push to '{echo(address)}': expected user/name on the hub, "
                "or file:///folder"
            )
        return None
    try:
        # file:relative and file://host/path are valid URLs, but not of a folder on this machine.
        parts = urlsplit(address)
    except ValueError as error:
        raise InputError(f"cannot push to '{echo(address)}': {error}") from error
    target = user_path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not target.is_absolute():
        raise InputError(
            f"cannot push to '{echo(address)}': expected file:// and an absolute path, "
            "such as file:///home/me/models/x"
        )
    # Only an earlier package is replaced, never a user's own file or folder.
    is_other = target.exists() and not target.is_dir()
    if is_other or (target.is_dir() and any(target.iterdir()) and not _is_package(target)):
        raise InputError(
            f"{target} exists and is not a package",
            hint="choose an empty or a new folder; nothing was changed",
        )
    _check_parent(target)
    return target


def _check_parent(target: Path) -> None:
    """Raises InputError if a file has the name of a folder above `target`."""
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        raise InputError(
            f"{target} cannot be created: {existing} is a file", hint="choose another folder"
        )


def _is_package(folder: Path) -> bool:
    # Every export writes one, and no other tool does.
    return (folder / "provenance.json").is_file()


def _push_to_folder(folder: Path, target: Path, card: str) -> str:
    with replacing(target) as unfinished, storage_errors(target):
        # An earlier package is replaced only when the copy is complete.
        shutil.copytree(folder, unfinished)
        write_text(unfinished / CARD_FILE, card)
    return target.as_uri()


def _push_to_hub(folder: Path, repo: str, card: str) -> str:
    console.say(f"uploading {folder} to {repo}")
    try:
        return _upload(folder, repo, card)
    except LocalTokenNotFoundError as error:
        raise InputError(
            f"not logged in to the hub: {error}", hint="run `hf auth login`, or set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no response"
        raise InputError(
            f"the hub refused the upload to {repo} ({code}): {str(error).splitlines()[0]}",
            hint="check the name, and that your token may write there",
        ) from error
    # The base of all connection errors.
    except OSError as error:
        raise OfflineError(
            f"the hub cannot be reached: {error}", hint=f"the package is still in {folder}"
        ) from error


def _upload(folder: Path, repo: str, card: str) -> str:
    """Uploads a folder and its card in two commits; returns the URL of the repository."""
    api = HfApi()
    url = api.create_repo(repo, exist_ok=True)
    api.upload_folder(
        repo_id=repo,
        folder_path=folder,
        # The folder's own card would replace the complete one until the second commit.
        ignore_patterns=[CARD_FILE],
        commit_message="ONNX files exported by EdgeDistil",
    )
    api.upload_file(
        repo_id=repo,
        path_or_fileobj=card.encode("utf-8"),
        path_in_repo=CARD_FILE,
        commit_message="Model card by EdgeDistil",
    )
    return str(url)
