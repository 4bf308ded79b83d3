"""What may import what: read from the source, so that a late or lazy import counts too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROS_MODULES = {
    "rclpy", "tf2_ros", "tf2_msgs", "message_filters", "cv_bridge", "tf_transformations", "launch", "launch_ros",
    "ament_index_python", "builtin_interfaces", "diagnostic_msgs", "diagnostic_updater", "geometry_msgs", "nav_msgs",
    "rcl_interfaces", "rosbag2_interfaces", "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs",
    "visualization_msgs", "rosbags",
}  # fmt: skip
# gsrender_core from the ground up: a module imports from its own layer and those below. A name covers its submodules.
LAYERS = (
    (
        "classes",
        "geometry",
        "trilinear",
        "numba_threads",
        "runtime",
        "whole_file",
        "stop_signals",
        "histogram",
        "cache_folder",
    ),
    ("voxel_grid", "voxel_index", "voxel_walk", "data.frame", "data.image_fit"),
    (
        "gaussians",
        "voxel_field",
        "losses",
        "ray_compensation",
        "metrics",
        "tau_curves",
        "bag_config",
        "config",
        "schedule",
        "data",
        "world",
        "studies",
        "study_table",
    ),
    ("model", "render", "readout", "readout_reference", "pictures"),
    (
        "checkpoint",
        "ray_supervision",
        "training_frames",
        "views",
        "visibility",
        "splatting",
        "marching",
        "voxel_supervision",
        "objective",
    ),
    ("engine",),
    ("predictor", "score", "pictures", "distributed"),
    (
        "evaluate",
        "held_out_depth",
        "lidar_evaluation",
        "predict_folder",
        "gradient_step",
        "run_folder",
        "supply",
        "lidar_validation",
        "validation",
        "statistics",
        "watch",
        "rendered_truth",
        "study_pictures",
    ),
    ("train",),
    ("bench", "ablate"),
    ("export", "cli"),
)


def modules(package: str) -> list[Path]:
    return [p for p in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in p.parts]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, lazy: bool = True) -> set[str]:
    """Absolute names of everything a module imports; without ``lazy`` only what its import executes."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if not lazy and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found.add(node.module)
            # `from package import module` imports the module as well.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(module: str) -> int:
    """The layer of ``gsrender_core.<module>``: that of the longest name that covers it."""
    inner = module.removeprefix("gsrender_core.")
    fitting = [
        (len(name), rank)
        for rank, names in enumerate(LAYERS)
        for name in names
        if inner == name or inner.startswith(name + ".")
    ]
    assert fitting, f"{module} has no layer: add it to LAYERS and to docs/architecture.md"
    return max(fitting)[1]


def is_core_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return name.startswith("gsrender_core.") and (path.with_suffix(".py").is_file() or path.is_dir())


@pytest.mark.parametrize("path", modules("gsrender_core"), ids=name_of)
def test_core_imports_no_ros(path):
    lazy_allowed = path.parent.name == "cli"  # the command converts bags, and imports that part when it is asked for
    used = {name.split(".")[0] for name in imports(path, lazy=not lazy_allowed)}
    assert not used & (ROS_MODULES | {"gsrender_ros"})


@pytest.mark.parametrize("path", modules("gsrender_core"), ids=name_of)
def test_core_imports_point_down(path):
    module = name_of(path)
    if module == "gsrender_core":
        assert not [n for n in imports(path) if is_core_module(n)], "the package itself must stay light"
        return
    for name in filter(is_core_module, imports(path)):
        assert layer_of(name) <= layer_of(module), f"{module} imports {name} from a layer above"


def test_core_has_no_import_circles():
    graph = {}
    for source in modules("gsrender_core"):
        module = name_of(source)
        used = {name for name in imports(source, lazy=False) if is_core_module(name)}
        # `from package import sibling` names the package as well; that is how siblings are written, no circle.
        graph[module] = {name for name in used if not module.startswith(name + ".")}
    done, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module in done or module not in graph:
            return
        path.append(module)
        for name in graph[module]:
            visit(name)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("path", modules("gsrender_ros"), ids=name_of)
def test_ros_package_does_not_use_the_command(path):
    assert not [n for n in imports(path) if n.startswith("gsrender_core.cli")]


def test_set_up_needs_nothing_but_the_standard_library():
    import sys

    for path in [ROOT / "gsrender_ros" / "__init__.py", *modules("gsrender_ros/tools")]:
        used = {name.split(".")[0] for name in imports(path) if not name.startswith("gsrender_ros.tools")}
        # `from gsrender_ros.tools.x import y` also yields gsrender_ros itself.
        assert used <= set(sys.stdlib_module_names), f"{path} imports {used - set(sys.stdlib_module_names)}"


def test_the_check_sees_a_forbidden_import(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import numpy\n\ndef f():\n    from rclpy.node import Node\n    return Node\n")
    assert {"numpy", "rclpy.node", "rclpy.node.Node"} <= imports(path)
    assert "rclpy.node" not in imports(path, lazy=False)
    assert layer_of("gsrender_core.data.frame") < layer_of("gsrender_core.data.nuscenes")
