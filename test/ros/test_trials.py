"""The trials: their figures by hand, and a few of their faults with real processes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from rclpy.serialization import serialize_message
from ros_processes import ROOT, SIZE, own_domain

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.conversions import cloud_from_occupancy
from gsrender_ros.standins import GENUINE
from gsrender_ros.trials.fault_injection import Outcome, complaints, inject, same_share, table, voxels
from gsrender_ros.trials.faults import named
from gsrender_ros.trials.rviz_screenshot import ros1_config
from gsrender_ros.trials.small_network import write_small_network
from gsrender_ros.trials.soak import Usage, growth_mb, processor_share, usage
from gsrender_ros.trials.synthetic_rig import RigOptions


def _cloud(labels: dict[tuple[int, int, int], int]) -> bytes:
    semantics = np.full((4, 4, 2), FREE, np.uint8)
    for at, label in labels.items():
        semantics[at] = label
    grid = VoxelGrid((0.0, 0.0, 0.0), 0.5, (4, 4, 2))
    return serialize_message(cloud_from_occupancy(OccupancyGrid(semantics, grid=grid, stamp_ns=5), "base_link"))


def test_outputs_are_compared_by_position_and_class():
    one = voxels(_cloud({(0, 0, 0): 4, (1, 2, 1): 11}))
    assert len(one) == 2 and same_share(one, voxels(_cloud({(1, 2, 1): 11, (0, 0, 0): 4}))) == 1.0
    assert same_share(one, voxels(_cloud({(0, 0, 0): 4, (1, 2, 1): 10}))) == pytest.approx(1 / 3)
    assert same_share(one, voxels(_cloud({(0, 0, 0): 4}))) == 0.5
    assert same_share(voxels(_cloud({})), voxels(_cloud({}))) == 1.0


def test_a_log_is_cut_to_its_distinct_complaints():
    text = (
        "[INFO] [1.5] [occupancy_node]: ready\n[WARN] [2.5] [occupancy_node]: late by 0.3 s\n"
        "[WARN] [3.5] [occupancy_node]: late by 0.9 s\nTraceback\n[ERROR] [4.5] [car.occupancy_node]: frame lost\n"
    )
    assert complaints(text) == ["late by 0.3 s", "frame lost"]


def test_a_fault_is_a_row_of_the_table():
    outcome = Outcome("a", "b", 8.0, 3, 1, ["x|y"], [("cameras", 1, "slow")], {"no_tf": 2}, 1.25)
    assert table([outcome]).splitlines()[-1] == (
        "| a | b (8 s) | x/y | cameras WARN: slow | no_tf 2 | 3, 1 wrong | 1.2 s |"
    )
    assert table([Outcome("a", "b", 0.0)]).splitlines()[-1] == "| a | b |  |  |  | - | never |"
    with pytest.raises(ValueError, match="no fault 'flat tyre'; there are: camera stops"):
        named(["flat tyre"])


def test_growth_is_the_last_minute_against_the_second():
    def samples(memory):
        return [Usage(at_s, memory(at_s), 1, 1, at_s / 2) for at_s in np.arange(5.0, 301.0, 5.0)]

    assert growth_mb(samples(lambda at_s: 900.0 if at_s < 60 else 1000.0)) == 0.0  # the first minute does not count
    assert growth_mb(samples(lambda at_s: at_s)) == pytest.approx(272.5 - 87.5)
    assert growth_mb(samples(lambda at_s: 1.0)[:20]) is None
    assert processor_share(samples(lambda at_s: 1.0)) == pytest.approx(0.5)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")
def test_usage_is_read_from_proc():
    # Another process: what this one freed before would be used again.
    code = "print(flush=True); input(); held = b'1' * 2**26; print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        before = usage(child.pid, 1.0)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = usage(child.pid, 2.0)
        child.kill()
    assert 60 < after.memory_mb - before.memory_mb < 75  # 64 MiB are 67 MB
    assert after.processor_s >= before.processor_s >= 0 and after.threads == 1 and after.files >= 3


def test_rviz_of_ros_1_gets_the_same_displays():
    config = yaml.safe_load((ROOT / "rviz" / "occupancy.rviz").read_text(encoding="utf-8"))
    displays = {
        display["Name"]: display
        for display in ros1_config(config, ("Occupancy cloud", "TF"))["Visualization Manager"]["Displays"]
    }
    assert displays["Occupancy cloud"]["Class"] == "rviz/PointCloud2" and displays["Occupancy cloud"]["Enabled"]
    assert displays["Occupancy cloud"]["Topic"] == "/occupancy_node/occupancy"
    markers = displays["Occupancy markers"]
    assert (markers["Marker Topic"], markers["Enabled"]) == ("/occupancy_node/occupancy/markers", False)
    assert "cam_front" not in displays
    with pytest.raises(ValueError, match="no display 'nothing'"):
        ros1_config(config, ("nothing",))


@pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")
def test_the_node_comes_back_from_faults_and_never_publishes_what_is_wrong(tmp_path):
    write_small_network(tmp_path / "small.safetensors", SIZE)
    faults = named(["NaN intrinsics", "network fails", "broken checkpoint", "frozen subscriber"])
    options = RigOptions(("cam_front", "cam_back"), SIZE, rate_hz=5.0, clock=True)
    report = inject(tmp_path, faults, tmp_path / "small.safetensors", options, (1.5, own_domain(41)))
    assert report["exit_code"] == 0
    outcomes = {outcome["name"]: outcome for outcome in report["outcomes"]}
    for outcome in outcomes.values():
        assert outcome["returned_s"] is not None, outcome
        assert (outcome["wrong"], outcome["unaccounted"]) == (0, 0), outcome
    assert outcomes["NaN intrinsics"]["dropped"]["calibration"] >= 1
    assert any("not calibrated" in line for line in outcomes["NaN intrinsics"]["said"])
    assert outcomes["network fails"]["dropped"]["error"] >= 3
    assert any("loading it anew" in line for line in outcomes["network fails"]["said"])
    assert any("not a readable safetensors file" in line for line in outcomes["broken checkpoint"]["said"])
