"""Location of existing Lucene indexes: local folders, or Pyserini's prebuilt indexes, which are downloaded by name."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from tarfile import TarError

from rerank.errors import MissingResourceError, UnknownNameError


def prebuilt_lucene_index_folder(name: str) -> Path:
    """Return the folder of an index; a prebuilt index is downloaded once, into the cache of Pyserini.

    Args:
        name: A folder, or the name of a prebuilt index (``msmarco-v1-passage-full``).
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if os.sep in name or folder.exists():
        raise MissingResourceError(f"{name} is not a folder", expected="the folder of a Lucene index")
    from pyserini.prebuilt_index_info import TF_INDEX_INFO

    if name not in TF_INDEX_INFO:
        raise UnknownNameError("folder or prebuilt index of Pyserini", name, TF_INDEX_INFO)
    from pyserini.util import download_prebuilt_index

    try:
        with contextlib.redirect_stdout(sys.stderr):  # the download prints its progress, and stdout may contain a run
            return Path(download_prebuilt_index(name, verbose=False))
    except (OSError, ValueError, AssertionError, TarError) as error:
        raise MissingResourceError(
            f"Pyserini's index {name!r} cannot be downloaded: {error}",
            remedy="Check the network, or pass the folder of a local index",
        ) from error
