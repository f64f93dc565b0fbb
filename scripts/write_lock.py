"""Write the lock anew from lock/build.in and pyproject.toml: every version and every hash.

One set of versions serves all supported Pythons and machines. What is pinned stays, as long as it still
fits; with `--upgrade` everything takes its newest version.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILE = [
    "pip",
    "compile",
    "--quiet",
    "--universal",
    "--python-version=3.11",
    "--fork-strategy=fewest",
    "--generate-hashes",
    "--no-annotate",
    "--custom-compile-command=make lock",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python]
        subprocess.run([*pip, "install", "--quiet", "uv"], check=True)
        compile_lock = [python, "-m", "uv", *COMPILE, *sys.argv[1:]]
        # Relative paths, so that no path of this machine gets into the lock.
        for inputs in (
            ["lock/build.in", "--output-file=lock/build.txt"],
            ["pyproject.toml", "--extra=dev", "--constraint=lock/build.txt", "--output-file=lock/all.txt"],
        ):
            subprocess.run([*compile_lock, *inputs], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
