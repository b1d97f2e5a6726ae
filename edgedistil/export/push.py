"""A package to where others find it: a hub repository, or a folder named by a `file://` URL."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from edgedistil.core import console
from edgedistil.core.errors import InputError, OfflineError
from edgedistil.core.rundir import replacing, storage_errors

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def push_package(folder: Path, repo: str) -> str:
    """Uploads a package; the address at which it then is.

    Args:
        folder: What `write_package` wrote.
        repo: `user/name` on the hub (made if it is not there), or `file:///folder`.
    Raises:
        InputError: Neither of the two, no package, no login or no right to write, or a folder that is no package.
        OfflineError: The hub cannot be reached.
        StorageError: The folder cannot be written.
    """
    if not (folder / "provenance.json").is_file():
        raise InputError(
            f"{folder} is no package: it has no provenance.json", hint="edgedistil export makes one"
        )
    if repo.startswith("file:"):
        return _push_to_folder(folder, repo)
    if not _REPOSITORY.fullmatch(repo):
        raise InputError(
            f"cannot push to '{repo}': expected user/name on the hub, or file:///folder"
        )
    return _push_to_hub(folder, repo)


def _push_to_folder(folder: Path, url: str) -> str:
    parts = urlsplit(url)
    target = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not target.is_absolute():
        raise InputError(
            f"cannot push to '{url}': expected file:// and an absolute path, as file:///home/me/models/x"
        )
    if target.exists() and any(target.iterdir()) and not (target / "provenance.json").is_file():
        raise InputError(
            f"{target} holds something that is no package",
            hint="name an empty or a new folder; nothing was changed",
        )
    with replacing(target) as aside, storage_errors(target):
        shutil.copytree(folder, aside)
    return target.as_uri()


def _push_to_hub(folder: Path, repo: str) -> str:
    api = HfApi()
    console.say(f"uploading {folder} to {repo}")
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="ONNX files made by EdgeDistil"
        )
    except LocalTokenNotFoundError as error:
        raise InputError(
            f"not logged in to the hub: {error}", hint="hf auth login, or set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no answer"
        raise InputError(
            f"the hub refused the upload to {repo} ({code}): {str(error).splitlines()[0]}",
            hint="check the name, and that your token may write there",
        ) from error
    except OSError as error:  # connection errors of every kind end below OSError
        raise OfflineError(
            f"the hub cannot be reached: {error}", hint=f"the package stays in {folder}"
        ) from error
    return str(address)
