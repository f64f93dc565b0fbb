"""Make `.venv` from the hashed lock, once; a finished set-up is recognised by its stamps.

It uses the standard library and your own pip, with your own pip configuration.
"""

from __future__ import annotations  # an old Python must get as far as the check of its version

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOCKS = (ROOT / "lock" / "build.txt", ROOT / "lock" / "all.txt")
PROJECT = ROOT / "pyproject.toml"
PYTHON_MIN = (3, 11)


class SetupError(Exception):
    """The set-up cannot go on; the message says what to do."""


def say(message: str) -> None:
    print(f"set-up: {message}", file=sys.stderr, flush=True)


def digest(*parts: bytes) -> str:
    """Hash of hashes, so that moving a byte from one part to the next changes it."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def stamped(stamp: Path, wanted: str) -> bool:
    return VENV_PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted


def run(command: list[str | Path], held: int, what: str) -> None:
    """Run quietly; a child keeps the lock `held`, so that it cannot write on after we are killed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        pass_fds=[held],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        last = (errors or lines or ["nothing"])[-1]
        raise SetupError(f"{what} failed (is the network there?), and said last: {last}")


def check_machine() -> None:
    if sys.version_info < PYTHON_MIN:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Feedloom needs Python 3.11 or newer, not {found}: try make PYTHON=python3.12")
    asked = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if asked.returncode:
        raise SetupError(f"{sys.executable} has no pip: install it (Debian, Ubuntu: apt install python3-pip)")


def install_dependencies(held: int) -> None:
    say("making .venv from the lock, which takes a minute or so the first time")
    run([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV], held, "python -m venv")
    locked: list[str | Path] = ["install", "--disable-pip-version-check", "--require-hashes", "-r"]
    # Your pip only has to install the locked one, which does the rest.
    your_pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", VENV_PYTHON]
    run([*your_pip, *locked, LOCKS[0]], held, "pip, installing lock/build.txt,")
    run(
        [VENV_PYTHON, "-m", "pip", *locked, LOCKS[1], "--no-build-isolation"],
        held,
        "pip, installing lock/all.txt,",
    )


def install_project(held: int) -> None:
    options = ["--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    run([VENV_PYTHON, "-m", "pip", "install", *options, "-e", "."], held, "pip, installing Feedloom itself,")


def bring_up_to_date(held: int) -> None:
    """Redo what has no matching stamp; a stamp is removed first and written last."""
    python = f"{sys.version} {sys.base_prefix} {ROOT}".encode()
    dependencies = digest(python, *(path.read_bytes() for path in LOCKS))
    project = digest(dependencies.encode(), PROJECT.read_bytes())
    for name, wanted, install in (
        ("dependencies", dependencies, install_dependencies),
        ("project", project, install_project),
    ):
        stamp = VENV / f"{name}.stamp"
        if stamped(stamp, wanted):
            continue
        check_machine()
        stamp.unlink(missing_ok=True)
        install(held)
        stamp.write_text(wanted)


def main() -> int:
    try:
        # Beside .venv and not in it: it must outlive the folder it guards.
        with (ROOT / ".venv.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another set-up of this checkout")
                fcntl.flock(lock, fcntl.LOCK_EX)
            bring_up_to_date(lock.fileno())
    except (SetupError, OSError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("interrupted; the next run starts it again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
