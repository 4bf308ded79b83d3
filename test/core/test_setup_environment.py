"""Setting up the environment: choices and messages; the whole run is what made the environment of these tests."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gsrender_ros.tools import generate_tf2_msgs, setup_environment
from gsrender_ros.tools.generate_tf2_msgs import NoCompilerError, redirect_build_host_paths, require_compiler

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_build_host_paths_are_redirected(tmp_path):
    cmake = tmp_path / "std_msgs" / "cmake" / "export.cmake"
    cmake.parent.mkdir(parents=True)
    head = "/opt/python/cp311-cp311"
    cmake.write_text(
        f'set(A "{head}/include/python3.11;{head}/lib/python3.11/site-packages/numpy/_core/include;/usr/include")\n'
    )
    assert redirect_build_host_paths(tmp_path, "/here/python", "/here/numpy") == 1
    assert cmake.read_text() == 'set(A "/here/python;/here/numpy;/usr/include")\n'
    assert redirect_build_host_paths(tmp_path, "/here/python", "/here/numpy") == 0


def test_without_a_compiler_it_says_which_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match=r"no C compiler \(cc, gcc, clang\) on PATH"):
        require_compiler(PYTHON, tmp_path)
    tool(tmp_path, "cc", "exit 0")
    with pytest.raises(NoCompilerError, match=r"no C\+\+ compiler"):
        require_compiler(PYTHON, tmp_path)


def test_without_python_headers_it_says_so(tmp_path, monkeypatch):
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    tool(tmp_path, "cc", 'echo "x.c:2:10: fatal error: Python.h: No such file or directory" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    with pytest.raises(NoCompilerError, match=r"cannot compile a Python extension: .*Python\.h"):
        require_compiler(PYTHON, tmp_path)


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("c++") is None, reason="no C compiler here")
def test_working_compilers_are_asked_to_compile_against_pythons_headers(tmp_path, monkeypatch):
    include = generate_tf2_msgs.ask(PYTHON, "import sysconfig; print(sysconfig.get_paths()['include'])", os.environ)
    if not Path(include, "Python.h").is_file():
        pytest.skip("no Python headers here")
    for variable, name in (("CC", "cc"), ("CXX", "c++")):
        tool(tmp_path, f"own-{name}", f'echo {name} "$@" >> {tmp_path}/asked; exec {shutil.which(name)} "$@"')
        monkeypatch.setenv(variable, str(tmp_path / f"own-{name}"))
    require_compiler(PYTHON, tmp_path)
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert [(words[0], words[1:3], Path(words[4]).name) for words in asked] == [
        ("cc", ["-I", include], "probe.c"),
        ("c++", ["-I", include], "probe.cpp"),
    ]
    assert (tmp_path / "probe.o").read_bytes()[:4] == b"\x7fELF"


def test_no_compiler_is_a_message_not_a_failure(monkeypatch, tmp_path, caplog):
    def refuse(python, constraints):
        raise NoCompilerError("no C compiler (cc) on PATH")

    monkeypatch.setattr(setup_environment, "generate", refuse)
    monkeypatch.setattr(setup_environment, "output_of", lambda python, code: None if "tf2_msgs" in code else "3.11.7")
    assert setup_environment.ensure_tf2_msgs(PYTHON, tmp_path) is False
    assert "no C compiler (cc) on PATH" in caplog.text and "pose_source:=odometry" in caplog.text


def test_a_failing_step_shows_the_end_of_its_output(tmp_path):
    command = ["sh", "-c", "echo first; echo the reason >&2; exit 3"]
    with pytest.raises(RuntimeError, match=r"(?s)compiling failed with exit code 3:.*first\nthe reason"):
        generate_tf2_msgs.run(command, dict(os.environ), tmp_path / "log", "compiling")


def test_inherited_library_path_of_ros_wheels_is_dropped(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/other/environment/lib")
    monkeypatch.delenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", raising=False)
    assert generate_tf2_msgs.clean_environment()["LD_LIBRARY_PATH"] == "/other/environment/lib"
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    assert "LD_LIBRARY_PATH" not in generate_tf2_msgs.clean_environment()


def test_unsupported_python_without_another_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(setup_environment.SetupError, match="not supported.*make setup PYTHON="):
        setup_environment.choose_python()
    tool(tmp_path, "python3.12", "exit 0")
    assert setup_environment.choose_python() == tmp_path / "python3.12"


def test_sourced_distribution_of_another_python_is_refused(monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setattr(setup_environment, "output_of", lambda python, code: None)
    with pytest.raises(setup_environment.SetupError, match="ROS 2 jazzy is sourced, but .*import rclpy.* fails"):
        setup_environment.find_distribution(PYTHON)
    monkeypatch.setattr(setup_environment, "output_of", lambda python, code: "")
    assert setup_environment.find_distribution(PYTHON) == "jazzy"
    monkeypatch.delenv("ROS_DISTRO")
    assert setup_environment.find_distribution(PYTHON) is None


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(setup_environment.SetupError, match="no virtual environment"):
        setup_environment.create_environment(PYTHON, tmp_path, system_packages=False)
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_an_environment_is_kept_unless_its_set_up_was_interrupted(monkeypatch, tmp_path):
    run = subprocess.run  # environments without pip take a tenth of the time
    monkeypatch.setattr(subprocess, "run", lambda command, **rest: run([*command, "--without-pip"], **rest))
    monkeypatch.setattr(setup_environment, "output_of", lambda python, code: "the same")
    venv = tmp_path / "venv"
    python = setup_environment.create_environment(PYTHON, venv, system_packages=False)
    installed = venv / "lib" / "installed"
    installed.touch()
    assert setup_environment.create_environment(PYTHON, venv, system_packages=False) == python
    assert installed.exists()
    (venv / setup_environment.INSTALLING).touch()
    setup_environment.create_environment(PYTHON, venv, system_packages=False)
    assert python.exists() and not installed.exists() and not (venv / setup_environment.INSTALLING).exists()
    installed.touch()
    setup_environment.create_environment(PYTHON, venv, system_packages=True)
    assert not installed.exists() and "system-site-packages = true" in (venv / "pyvenv.cfg").read_text()


def test_a_distribution_with_numpy_1_replaces_the_pins(monkeypatch, tmp_path):
    assert setup_environment.constraints_for(tmp_path, None, PYTHON) == ROOT / "constraints.txt"
    monkeypatch.setattr(setup_environment, "output_of", lambda python, code: "2.1.0")
    assert setup_environment.constraints_for(tmp_path, "lyrical", PYTHON) == ROOT / "constraints.txt"
    monkeypatch.setattr(setup_environment, "output_of", lambda python, code: "1.26.4")
    lines = setup_environment.constraints_for(tmp_path, "jazzy", PYTHON).read_text().splitlines()
    assert [line for line in lines if line.startswith("numpy==")] == ["numpy==1.26.4"]
    assert [line for line in lines if line.startswith("opencv")] == ["opencv-python-headless==4.11.0.86"]
    assert any(line.startswith("torch==") for line in lines)


def test_fingerprint_changes_with_what_it_depends_on(monkeypatch, tmp_path):
    for name in setup_environment.INPUTS:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    monkeypatch.setattr(setup_environment, "ROOT", tmp_path)
    first = setup_environment.fingerprint(PYTHON, None)
    assert setup_environment.fingerprint(PYTHON, None) == first
    assert setup_environment.fingerprint(PYTHON, "jazzy") != first
    (tmp_path / "constraints.txt").write_text("numpy==1\n")
    assert setup_environment.fingerprint(PYTHON, None) != first


def test_errors_are_a_line_and_an_exit_code(monkeypatch, tmp_path, caplog):
    def fail(venv, force):
        raise setup_environment.SetupError("what happened; what to do")

    monkeypatch.setattr(setup_environment, "setup", fail)
    assert setup_environment.main([str(tmp_path)]) == 1
    assert "what happened; what to do" in caplog.text
