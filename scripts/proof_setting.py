"""Where and of what a proof is made: what all files in docs/proof say of themselves."""

import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def machine() -> str:
    """The processor family, the system and the Python."""
    return f"{platform.machine()}, {platform.system()}, python {platform.python_version()}"


def commit() -> str:
    """What is checked out."""
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
