"""Make the virtual environment that everything runs in: ``python -m gsrender_ros.tools.setup_environment .venv``.

With a sourced ROS 2 distribution the environment sees the distribution's packages. Without one it gets
PyPI's ROS 2 wheels, and tf2_msgs, which they lack, is generated. Running it again is cheap, and repairs
an environment that an earlier run left half-finished.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from gsrender_ros.tools.generate_tf2_msgs import NoCompilerError, clean_environment, generate

logger = logging.getLogger("setup")

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = (3, 10), (3, 13)
CONSTRAINTS, CONSTRAINTS_NUMPY1 = "constraints.txt", "constraints-numpy1.txt"
# What an environment depends on: a change of one of them means setting up again.
INPUTS = (CONSTRAINTS, CONSTRAINTS_NUMPY1, "setup.py", "setup.cfg", "pyproject.toml", "gsrender_ros/tools")
INSTALLING = ".installing"  # lies in the environment while pip writes to it
WITHOUT_TF2_MSGS = " without tf2_msgs"
NO_TF2_MSGS = """tf2_msgs cannot be generated: {reason}.
Everything else works. Without tf2_msgs there is no /tf: start the node with pose_source:=odometry, so that
the pose comes from nav_msgs/Odometry and the calibration from CameraInfo or a calibration YAML.
Install a C and C++ compiler and the headers of Python {version}, then run `make setup` again to have /tf."""


class SetupError(RuntimeError):
    """The environment cannot be made; the message says why and what to do."""


def choose_python() -> Path:
    """The interpreter to build on: this one, or the first supported one on PATH.

    Raises:
        SetupError: none is between 3.10 and 3.13.
    """
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        # The base interpreter: a virtual environment made from another one would depend on it.
        return Path(getattr(sys, "_base_executable", sys.executable))
    for minor in (12, 11, 10, 13):
        path = shutil.which(f"python3.{minor}")
        works = path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0
        if works:
            logger.info("python3 is %s, which is not supported; using %s", platform.python_version(), path)
            return Path(path)
    raise SetupError(
        f"Python {platform.python_version()} is not supported and no python3.10 to python3.13 is on PATH. "
        "Install one of them and run `make setup PYTHON=/path/to/python3.12`."
    )


def output_of(python: Path, code: str) -> str | None:
    """What ``python -c code`` prints, or None where it fails."""
    done = subprocess.run([str(python), "-c", code], env=clean_environment(), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def find_distribution(python: Path) -> str | None:
    """The name of the sourced ROS 2 distribution, or None where none is sourced.

    Raises:
        SetupError: one is sourced, but for another Python: its modules would shadow the wheels'.
    """
    name = os.environ.get("ROS_DISTRO")
    if not name:
        return None
    if output_of(python, "import rclpy") is None:
        raise SetupError(
            f"ROS 2 {name} is sourced, but `{python} -c 'import rclpy'` fails. Choose the Python that {name} was built "
            "for (`make setup PYTHON=/usr/bin/python3`), or run make in a shell without ROS."
        )
    return name


def fingerprint(python: Path, distribution: str | None) -> str:
    """One hash of everything that decides what the environment holds."""
    digest = hashlib.sha256(f"{python}|{output_of(python, 'import sys; print(sys.version)')}|{distribution}".encode())
    for name in INPUTS:
        path = ROOT / name
        files = sorted(p for p in path.rglob("*") if p.suffix in (".py", ".txt", ".msg")) if path.is_dir() else [path]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def pip_install(python: Path, *arguments: str) -> None:
    """Run ``pip install`` of an environment, its output shown.

    Raises:
        SetupError: pip failed.
    """
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-qq", "--no-compile", *arguments]
    if subprocess.run(command, env=clean_environment(), cwd=ROOT).returncode:
        raise SetupError(f"`{' '.join(command)}` failed, see above. Run `make setup` again to go on from here.")


def create_environment(python: Path, venv: Path, system_packages: bool) -> Path:
    """Make the virtual environment, or keep the one that fits; returns its interpreter.

    Raises:
        SetupError: the folder is not a virtual environment, or venv failed.
    """
    venv_python, config = venv / "bin" / "python", venv / "pyvenv.cfg"
    wanted = f"include-system-site-packages = {str(system_packages).lower()}"
    if venv.exists() and any(venv.iterdir()):
        if not config.is_file():
            raise SetupError(f"{venv} exists and is no virtual environment; move it away and run `make setup` again")
        version = "import sys; print(sys.version_info[:2])"
        same_python = wanted in config.read_text() and output_of(venv_python, version) == output_of(python, version)
        # pip takes a package whose copying was interrupted for an installed one.
        whole = not (venv / INSTALLING).exists() and output_of(venv_python, "import pip") is not None
        if same_python and whole:
            return venv_python
        logger.info("making %s anew: %s", venv, "its set-up was interrupted" if same_python else "other Python or ROS")
    options = ["--clear"] + (["--system-site-packages"] if system_packages else [])
    done = subprocess.run([str(python), "-m", "venv", *options, str(venv)], env=clean_environment())
    if done.returncode:
        raise SetupError(f"`{python} -m venv` failed, see above; on Debian and Ubuntu: `apt install python3-venv`")
    return venv_python


def constraints_for(venv: Path, distribution: str | None, venv_python: Path) -> Path:
    """The pip constraints: our pins, less what a distribution's binaries forbid.

    rclpy and the messages of a distribution that ships numpy 1 do not load under numpy 2.
    """
    if distribution is None:
        return ROOT / CONSTRAINTS
    version = output_of(venv_python, "import numpy; print(numpy.__version__)") or "1"
    if int(version.split(".")[0]) >= 2:
        return ROOT / CONSTRAINTS
    override = [line for line in (ROOT / CONSTRAINTS_NUMPY1).read_text().splitlines() if "==" in line]
    names = {line.split("==")[0] for line in override}
    kept = [line for line in (ROOT / CONSTRAINTS).read_text().splitlines() if line.split("==")[0] not in names]
    merged = venv / "constraints.txt"
    merged.write_text("\n".join([*kept, *override]) + "\n")
    return merged


def install(venv_python: Path, constraints: Path, distribution: str | None) -> None:
    """Install the dependencies and, editable, this package.

    Raises:
        SetupError: pip failed.
    """
    extras = "test" if distribution else "test,ros"
    pip_install(venv_python, "-c", str(constraints), "-e", f".[{extras}]")


def ensure_tf2_msgs(venv_python: Path, constraints: Path) -> bool:
    """Generate tf2_msgs unless it is there; False, with the reason logged, where there is no compiler."""
    if output_of(venv_python, "from tf2_msgs.msg import TFMessage; TFMessage()") is not None:
        return True
    logger.info("generating tf2_msgs ...")
    try:
        generate(venv_python, constraints)
    except NoCompilerError as error:
        version = output_of(venv_python, "import platform; print(platform.python_version())")
        logger.warning(NO_TF2_MSGS.format(reason=error, version=version))
        return False
    if output_of(venv_python, "from tf2_msgs.msg import TFMessage; TFMessage()") is None:
        raise SetupError("tf2_msgs was generated but does not import; remove .venv and run `make setup` again")
    return True


def setup(venv: Path, force: bool = False) -> None:
    """Bring the environment up to date; does nothing where nothing changed since the last complete run.

    Raises:
        SetupError, RuntimeError: a step failed; the message says which.
    """
    start = time.monotonic()
    python = choose_python()
    distribution = find_distribution(python)
    if distribution is None and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"there are no ROS 2 wheels for {sys.platform} {platform.machine()}: install and source a ROS 2 "
            "distribution, or use the part without ROS: `pip install .`"
        )
    stamp, mark = venv / ".setup-complete", fingerprint(python, distribution)
    venv_python = venv / "bin" / "python"
    done = stamp.read_text() if stamp.is_file() and not force else ""
    if done == mark:
        return
    if done == mark + WITHOUT_TF2_MSGS and not ensure_tf2_msgs(venv_python, ROOT / CONSTRAINTS):
        return
    logger.info(
        "setting up %s: Python %s, %s",
        venv,
        output_of(python, "import platform; print(platform.python_version())"),
        f"ROS 2 {distribution}" if distribution else "ROS 2 wheels (no distribution is sourced)",
    )
    stamp.unlink(missing_ok=True)
    venv_python = create_environment(python, venv, system_packages=distribution is not None)
    constraints = constraints_for(venv, distribution, venv_python)
    logger.info("installing the packages ...")
    (venv / INSTALLING).touch()
    install(venv_python, constraints, distribution)
    (venv / INSTALLING).unlink()
    has_tf2_msgs = distribution is not None or ensure_tf2_msgs(venv_python, constraints)
    if output_of(venv_python, "import rclpy, torch, gsrender_core") is None:
        raise SetupError(f"{venv_python} cannot import rclpy, torch or gsrender_core; try `rm -r {venv}; make setup`")
    # Without tf2_msgs the next run looks again: a compiler may have come meanwhile.
    stamp.write_text(mark if has_tf2_msgs else mark + WITHOUT_TF2_MSGS)
    logger.info("done in %.0f s", time.monotonic() - start)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("venv", type=Path, help="folder of the virtual environment")
    parser.add_argument("--force", action="store_true", help="go through all steps even if nothing changed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="[setup] %(message)s")
    try:
        setup(options.venv.resolve(), options.force)
    except RuntimeError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
