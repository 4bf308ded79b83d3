"""Pause, reset, reload, another checkpoint and the self-check, asked of the node's process while a bag plays."""

import time

import numpy as np
import pytest
import rclpy.parameter
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid as OccupancyMap
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_processes import (
    CAMERAS,
    Process,
    listening_node,
    own_domain,
    write_small_bag,
    write_small_checkpoint,
)
from sensor_msgs.msg import PointCloud2, PointField
from std_srvs.srv import SetBool, Trigger

from gsrender_ros import occupancy_node
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.predictor_host import PredictorHost
from gsrender_ros.standins import GENUINE

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(autouse=True)
def no_process_survives():
    yield
    Process.end_all()


class Client:
    """Asks the node, and keeps what it says."""

    def __init__(self, node, spin_until, process):
        self._node, self._spin_until, self._process = node, spin_until, process
        self.maps, self.status = [], {}
        node.create_subscription(OccupancyMap, "/occupancy_node/occupancy/map", self._on_map, LATCHED)
        self._clouds = node.create_publisher(PointCloud2, "/lidar", 10)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_map(self, message):
        """A scan of the same moment: a wall 6 m before the camera, whose frame the LiDAR shares."""
        self.maps.append(message)
        points = np.zeros((60, 3), np.float32)
        points[:, 0], points[:, 2] = np.linspace(-3, 3, 60), 6.0
        cloud = PointCloud2(height=1, width=60, point_step=12, row_step=720, data=points.tobytes())
        cloud.header.stamp, cloud.header.frame_id = message.header.stamp, "cam_front"
        cloud.fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyz")]
        self._clouds.publish(cloud)

    def _on_diagnostics(self, message):
        self.status = {status.name.partition(": ")[2]: status for status in message.status}

    def values(self, name="occupancy") -> dict[str, str]:
        return {pair.key: pair.value for pair in self.status[name].values} if name in self.status else {}

    def count(self, key: str) -> int:
        return int(self.values().get(key, 0))

    def until(self, condition):
        self._spin_until(condition, self._process)

    def call(self, kind, name: str, **request):
        client = self._node.create_client(kind, f"/occupancy_node/{name}")
        self.until(client.service_is_ready)
        future = client.call_async(kind.Request(**request))
        self.until(future.done)
        return future.result()

    def set_checkpoint(self, path):
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(path))
        request = {"parameters": [Parameter(name="checkpoint", value=value)]}
        return self.call(SetParameters, "set_parameters", **request).results[0]

    def until_at_rest(self):
        """Until nothing has come in for a while."""
        seen, since = None, 0.0

        def at_rest() -> bool:
            nonlocal seen, since
            if (count := self.count("frames_in")) != seen:
                seen, since = count, time.monotonic()
            return time.monotonic() - since > 1.0

        self.until(at_rest)

    def until_more_maps(self, more: int = 2):
        wanted = len(self.maps) + more
        self.until(lambda: len(self.maps) >= wanted)


@pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")
def test_the_node_is_paused_reset_and_given_other_networks_while_it_runs(tmp_path):
    domain = own_domain(21)
    write_small_bag(tmp_path / "bag")
    checkpoint, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_small_checkpoint(checkpoint)
    write_small_checkpoint(other)
    parameters = {
        "checkpoint": checkpoint,
        "use_sim_time": "true",
        "device": "cpu",
        "cameras": f"[{', '.join(CAMERAS)}]",
        "diagnostics.period_s": 0.2,
        "watchdog_s": 60.0,
        "self_check.lidar_topic": "/lidar",
    }
    arguments = ["--ros-args", *(text for item in parameters.items() for text in ("-p", f"{item[0]}:={item[1]}"))]
    process = Process("gsrender_ros.occupancy_node", arguments, domain, tmp_path / "node.log")
    wait_for = "/cam_front/image_raw/compressed"
    player = Process(
        "gsrender_ros.replay_player",
        [tmp_path / "bag", "--loop", "--clock", "--wait-for", wait_for],
        domain,
        tmp_path / "player.log",
    )
    with listening_node(domain) as (node, spin_until):
        client = Client(node, spin_until, process)
        client.until_more_maps()
        client.until(lambda: int(client.values("self-check").get("grids_compared", 0)) >= 1)
        assert int(client.values("self-check")["rays"]) % 60 == 0  # the camera's pose was known: all lie in the grid

        response = client.call(SetBool, "pause", data=True)
        assert response.success and "paused" in response.message
        client.until(lambda: client.count("dropped.paused") >= 3)
        status = client.status["occupancy"]
        assert status.message.startswith("paused") and client.values()["paused"] == "True"
        published = client.count("frames_out")
        client.until(lambda: client.count("dropped.paused") >= 6)
        assert client.count("frames_out") == published
        client.call(SetBool, "pause", data=False)
        client.until_more_maps()

        assert client.call(Trigger, "reset").success
        client.until_more_maps()

        # A newer file under the same name; then a broken one, which leaves the network in use.
        assert client.call(Trigger, "reload").message == f"loaded {checkpoint}"
        checkpoint.write_bytes(b"\x10" * 1000)
        response = client.call(Trigger, "reload")
        assert not response.success and "the old one goes on" in response.message
        assert "is not a readable safetensors file" in response.message
        client.until_more_maps()

        for path, words in ((tmp_path / "none.safetensors", "no checkpoint at"), (checkpoint, "not a readable")):
            result = client.set_checkpoint(path)
            assert not result.successful and words in result.reason
        assert client.set_checkpoint(other).successful
        client.until(lambda: client.values("network").get("checkpoint") == str(other))
        client.until_more_maps()
        assert client.call(Trigger, "reload").message == f"loaded {other}"

        player.end()
        client.until_at_rest()
        # It may have ended between the cameras of a set: the image that waits for its partner is forgotten.
        assert client.call(Trigger, "reset").success
        client.until(lambda: client.count("frames_pending") == 0)
        dropped = sum(int(value) for key, value in client.values().items() if key.startswith("dropped."))
        assert client.count("frames_in") == client.count("frames_out") + dropped
        expected = {"occupancy", "cameras", "transforms", "network", "outputs", "self-check"}
        assert set(client.status) == expected
    assert process.end() == 0
    assert "Traceback" not in process.text
    assert f"checkpoint not loaded, {checkpoint} stays in use" in process.text


def test_images_are_subscribed_to_when_the_network_is_loaded(tmp_path, monkeypatch):
    """What a player that waits for a subscriber of the images relies on."""
    order = []
    load = PredictorHost.load
    monkeypatch.setattr(PredictorHost, "load", lambda *given: (load(*given), order.append("loaded"))[0])
    monkeypatch.setattr(occupancy_node, "CameraTopics", lambda *given: order.append("images") or CameraTopics(*given))
    write_small_checkpoint(tmp_path / "small.safetensors")
    values = {"cameras": list(CAMERAS), "device": "cpu", "checkpoint": str(tmp_path / "small.safetensors")}
    overrides = [rclpy.parameter.Parameter(name, value=value) for name, value in values.items()]
    with listening_node(own_domain(31)) as (node, _):
        ready = occupancy_node.OccupancyNode(context=node.context, parameter_overrides=overrides)
        ready.close()
    assert order == ["loaded", "images"]
