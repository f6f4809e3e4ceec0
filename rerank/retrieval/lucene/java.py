"""Location and version of the Java installation that Pyserini uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from rerank.errors import MissingPrerequisiteError

#: The oldest Java version that can load Anserini.
OLDEST = 21
REMEDY = (
    "Run: apt-get install openjdk-21-jdk-headless (or install another JDK of version 21 or newer and set JAVA_HOME)"
)

#: Environment variables that pyjnius reads, in this order. If none is set, pyjnius uses the location of javac.
_VARIABLES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")


def find_java() -> tuple[Path, str]:
    """Return the home folder of the Java installation that pyjnius will load, and its version, such as ``21.0.5``."""
    home, where = _java_home()
    if home is None:
        raise MissingPrerequisiteError(
            "No Java development kit was found: JAVA_HOME is not set and javac is not on the PATH", remedy=REMEDY
        )
    version = _java_version(home)
    major = re.match(r"\d+", version)
    if not major:
        raise MissingPrerequisiteError(f"{where} points to {home}, which is not a Java development kit", remedy=REMEDY)
    if int(major[0]) < OLDEST:
        raise MissingPrerequisiteError(
            f"Java {version} in {home} is too old", expected=f"{OLDEST} or newer", remedy=REMEDY
        )
    return home, version


def _java_home() -> tuple[Path | None, str]:
    for variable in _VARIABLES:
        if value := os.environ.get(variable):
            home = Path(value)
            return (home.parent if home.name == "bin" else home), variable
    javac = shutil.which("javac")
    return (Path(javac).resolve().parents[1] if javac else None), "javac"


def _java_version(home: Path) -> str:
    """Return the version of a JDK from its file ``release``, or else from ``java -version``; empty if unknown."""
    try:
        text = (home / "release").read_text("utf-8", "replace")
        pattern = r'^JAVA_VERSION="([^"]+)"'
    except OSError:
        try:
            done = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        text, pattern = done.stderr.decode("utf-8", "replace"), r'version "([^"]+)"'
    match = re.search(pattern, text, re.M)
    return match[1].removeprefix("1.") if match else ""  # Java 8 reports 1.8
