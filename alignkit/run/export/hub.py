"""Target `hub`: uploads a proven folder to a repository of the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from alignkit.errors import ExportError, first_line
from alignkit.recipe.lookup.secrets import FOR_THE_HUB, lent, secret


@lent(FOR_THE_HUB)
def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Makes the repository if need be, uploads all files as one commit, and looks whether they lie there whole.

    The token is HF_TOKEN's, or that of `hf auth login`; it is never shown. Returns the repository's address. Raises
    ExportError when the hub refuses or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret("HF_TOKEN"))
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A model proven by alignkit export")
        there = api.model_info(repo, files_metadata=True).siblings or []
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise ExportError(f"{repo}: could not be uploaded ({_said(error)}); {folder} is whole and proven") from error
    sizes = {file.rfilename: file.size for file in there}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, size = file.relative_to(folder).as_posix(), file.stat().st_size
        if sizes.get(name) != size:
            got = f"{sizes[name]} bytes" if name in sizes else "not there"
            raise ExportError(f"{repo}: {name} is {got} where {size} bytes were sent; upload {folder} again")
    return str(address)


def _said(error: Exception) -> str:
    token = secret("HF_TOKEN")
    return first_line(error).replace(token, "...") if token else first_line(error)
