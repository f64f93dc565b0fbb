"""Build the wheel and try it where no checkout is: what is installed must run by itself.

Run it with the Python of `.venv`. The throw-away environment borrows the locked dependencies from there,
so that the check needs no network.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"blending", "engine", "streams", "simulator", "feedloom"}
# PYTHONPATH could let the checkout in by another door.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode:
        sys.exit(f"{done.stdout}wheel: exit {done.returncode} from {' '.join(map(str, command))}")
    return done.stdout


def build_wheel(folder: Path) -> Path:
    # By way of the source archive: a build/ folder that an older build left here cannot get into the wheel.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    found = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if found != PACKAGES:
        sys.exit(f"wheel: it holds {sorted(found)} and should hold {sorted(PACKAGES)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        sys.exit("wheel: the licence is missing")


def install(wheel: Path, venv: Path) -> Path:
    """Install the wheel into a new environment and return the environment's folder of programs."""
    run([sys.executable, "-m", "venv", "--without-pip", venv], venv.parent)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(
        [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", wheel],
        venv.parent,
    )
    # Only now: pip would find the checkout's own Feedloom there and leave the wheel out. A folder named in a
    # .pth file lends its packages but not its .pth files, so the checkout stays invisible.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def write_log(path: Path) -> None:
    """Six users, ten reactions each, among seven items: enough for every step to run."""
    rows = [f"u{row % 6},i{row * row % 7},{1_700_000_000 + 600 * row}" for row in range(60)]
    path.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")


def try_wheel(programs: Path, folder: Path) -> None:
    where = run([programs / "python", "-c", "import feedloom; print(feedloom.__file__)"], folder)
    if not where.startswith(str(programs.parent)):
        sys.exit(f"wheel: not the installed package but {where.strip()} was imported")
    print(run([programs / "feedloom", "doctor"], folder), end="")
    write_log(folder / "log.csv")
    json.loads(run([programs / "feedloom", "backtest", "log.csv", "--json"], folder))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        # Resolved: on macOS the temporary folder is reached through a link.
        folder = Path(name).resolve()
        wheel = build_wheel(folder)
        check_contents(wheel)
        programs = install(wheel, folder / "venv")
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        try_wheel(programs, elsewhere)
        print(f"wheel: {wheel.name} is whole, installs, and runs outside the checkout")


if __name__ == "__main__":
    main()
