"""The Java that Pyserini would use: where it is and which version. Starts nothing that stays; knows no index."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from rerank.errors import MissingPrerequisiteError

#: The oldest version whose classes Anserini can be loaded by.
OLDEST = 21
REMEDY = "Run: apt-get install openjdk-21-jdk-headless (or install another JDK from 21 up and set JAVA_HOME)"

#: What pyjnius looks at, in its order; without any of them it follows javac.
_VARIABLES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")


def find_java() -> tuple[Path, str]:
    """The home of the Java that pyjnius will load, and its version, such as ``21.0.5``.

    Raises:
        MissingPrerequisiteError: There is none, or it is older than `OLDEST`; the remedy names Debian's package.
    """
    home, where = _home()
    if home is None:
        raise MissingPrerequisiteError(
            "No Java development kit: neither JAVA_HOME is set nor javac on the PATH", remedy=REMEDY
        )
    version = _version(home)
    found = re.match(r"\d+", version)
    if not found:
        raise MissingPrerequisiteError(f"{where} leads to {home}, which is no Java development kit", remedy=REMEDY)
    if int(found[0]) < OLDEST:
        raise MissingPrerequisiteError(f"Java {version} in {home}", expected=f"{OLDEST} or newer", remedy=REMEDY)
    return home, version


def _home() -> tuple[Path | None, str]:
    for variable in _VARIABLES:
        if value := os.environ.get(variable):
            home = Path(value)
            return (home.parent if home.name == "bin" else home), variable
    javac = shutil.which("javac")
    return (Path(javac).resolve().parents[1] if javac else None), "javac"


def _version(home: Path) -> str:
    """From the file that every JDK has, else from the program itself; empty where neither is there."""
    try:
        text = (home / "release").read_text("utf-8", "replace")
        pattern = r'^JAVA_VERSION="([^"]+)"'
    except OSError:
        try:
            done = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        text, pattern = done.stderr.decode("utf-8", "replace"), r'version "([^"]+)"'
    found = re.search(pattern, text, re.M)
    return found[1].removeprefix("1.") if found else ""  # Java 8 calls itself 1.8
