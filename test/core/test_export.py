"""The ONNX file: what it says of itself, and that it says what the network says."""

import json

import numpy as np
import pytest
from test_engine import SUBPIXEL, assert_same, frame_of, network

from gsrender_core.checkpoint import save_checkpoint
from gsrender_core.config import ViewConfig
from gsrender_core.export import INPUTS, _run, export_onnx
from gsrender_core.predictor import Predictor

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize("encoder", [None, SUBPIXEL], ids=["smooth", "subpixel"])
def test_the_file_equals_the_network_for_any_rig(tmp_path, encoder):
    model = network(**({"encoder": encoder} if encoder else {}))
    save_checkpoint(tmp_path / "m.safetensors", model, {})
    about = export_onnx(tmp_path / "m.safetensors", tmp_path / "out", cameras=3)
    assert about == json.loads((tmp_path / "out" / "network.json").read_text())
    assert about["inputs"]["images"] == "uint8 [3, 3, 64, 96]" and about["outputs"]["semantics"] == "uint8 [16, 16, 8]"
    assert about["classes"][17] == "free" and about["checked"]["agreement"] > 0.995
    predictor = Predictor.load(tmp_path / "m.safetensors", "cpu", "float32")
    engine = _run(tmp_path / "out" / "network.onnx", set(about["inputs"]))
    for seed in (1, 2):  # calibrations that the export has not seen
        assert_same(engine, predictor, frame_of(seed))
    assert set(about["inputs"]) <= set(INPUTS)


def test_a_network_without_fixed_shapes_is_refused(tmp_path):
    model = network(view=ViewConfig(neck_channels=16, channels=8, kind="projection"))
    save_checkpoint(tmp_path / "m.safetensors", model, {})
    with pytest.raises(ValueError, match="cannot be exported: view.kind 'projection'"):
        export_onnx(tmp_path / "m.safetensors", tmp_path / "out")


def test_one_camera_is_a_network_too(tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", network(), {})
    about = export_onnx(tmp_path / "m.safetensors", tmp_path / "out", cameras=1)
    graph = onnx.load(tmp_path / "out" / "network.onnx").graph
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    assert shapes["images"] == [1, 3, 64, 96] and shapes["tau"] == []
    assert np.isclose(about["tau"], 0.1)
