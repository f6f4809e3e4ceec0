"""Lucene indexes that others have built: folders, and those that Pyserini knows by name and downloads when asked."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from tarfile import TarError

from rerank.errors import MissingResourceError, UnknownNameError


def index_folder(name: str) -> Path:
    """The folder of an index; one that Pyserini knows by name is downloaded the first time, into Pyserini's own cache.

    Args:
        name: A folder, or else such a name (``msmarco-v1-passage-full``).

    Raises:
        MissingResourceError: No such folder, or the index cannot be downloaded.
        UnknownNameError: Neither a folder nor a name that Pyserini knows; the message suggests the nearest.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if os.sep in name or folder.exists():
        raise MissingResourceError(f"{name} is no folder", expected="the folder of a Lucene index")
    from pyserini.prebuilt_index_info import TF_INDEX_INFO

    if name not in TF_INDEX_INFO:
        raise UnknownNameError("folder or prebuilt index of Pyserini", name, TF_INDEX_INFO)
    from pyserini.util import download_prebuilt_index

    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does, where a run may be expected
            return Path(download_prebuilt_index(name, verbose=False))
    except (OSError, ValueError, AssertionError, TarError) as error:
        raise MissingResourceError(
            f"Pyserini's index {name!r} cannot be downloaded: {error}",
            remedy="Check the network, or give the folder of an index that is here",
        ) from error
