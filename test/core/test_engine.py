"""Runtimes against eager torch: same labels from any frame, and a loud way back where that is not so."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from engines import CPU, FLOAT, SUBPIXEL, assert_same, frame_of, network, opacity_reached_by
from small import SIZE

from gsrender_core import engine as engine_module
from gsrender_core.config import BackboneConfig, EncoderConfig, HeadConfig, ViewConfig
from gsrender_core.engine import make_engine
from gsrender_core.engine.agreement import AgreementError, check_agreement, surround_frame
from gsrender_core.engine.gpu_network import GpuNetwork
from gsrender_core.engine.labelling import CellLabels, RowLabels
from gsrender_core.model.parts import CellPart, VolumePart, WholeNetwork
from gsrender_core.model.view_transformer import ego_from_pixel
from gsrender_core.predictor import Predictor

CELLS = EncoderConfig(channels=8, features=6, widen="subpixel", cell_features=24)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gsrender" / "graphs"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder": SUBPIXEL},
        {"encoder": CELLS, "head": HeadConfig(hidden=0)},
        {"encoder": EncoderConfig(channels=8, features=6), "head": HeadConfig(hidden=0)},
        {"encoder": EncoderConfig(kind="resnet3d", channels=4, features=6), "head": HeadConfig(hidden=16)},
        {"view": ViewConfig(neck_channels=16, channels=8, depth_net="bevdepth", neck="joined")},
    ],
    ids=["smooth", "subpixel", "cells", "smooth_linear", "resnet3d", "bevdepth"],
)
@pytest.mark.parametrize("runtime", ["openvino", "whole", "gpu"])
def test_every_runtime_equals_eager_torch_on_random_frames(changes, runtime):
    model = network(**changes)
    reference = Predictor(model, device="cpu", precision="float32")
    if runtime == "openvino":
        engine, _ = make_engine(reference.model, CPU, FLOAT, runtime, reference._by_torch)
        assert engine is not None
    else:  # what ONNX exports, and what a CUDA graph captures with references in place of its kernels
        whole = WholeNetwork(reference.model) if runtime == "whole" else GpuNetwork(reference.model, FLOAT)
        whole.eval()

        def engine(frame, tau):
            images, Ks, T = (torch.from_numpy(a) for a in (frame.images, frame.Ks, frame.T_ego_cam))
            Ks, T = Ks.float(), T.float()
            with torch.no_grad():
                return [out.numpy() for out in whole(images, Ks, T, ego_from_pixel(Ks, T), torch.tensor(tau))]

    for seed, cameras in ((1, 3), (2, 3), (3, 1)):  # other calibrations, another number of cameras
        assert_same(engine, reference, frame_of(seed, cameras))


def test_rows_of_cells_find_their_voxels():
    part = VolumePart(network(encoder=SUBPIXEL))
    volume = torch.randn(8, 8, 8, 8)
    with torch.no_grad():
        opacity, rows = part(volume)
        P = part.encoder(volume[None].permute(0, 4, 1, 2, 3))[0].permute(1, 2, 3, 0)
        for f in range(6):
            assert torch.equal(part.by_voxel(rows[:, f]), P[..., f])
            assert np.array_equal(part.by_voxel(rows[:, f].numpy()), P[..., f].numpy())
        torch.testing.assert_close(part.by_voxel(opacity).flatten(), part.head.opacity(P.reshape(-1, 6)))
    assert not torch.equal(rows, P.reshape(-1, 6)), "sub-pixel cells come in another order"


@pytest.mark.parametrize("encoder", [CELLS, EncoderConfig(channels=8, features=6)], ids=["cells of voxels", "voxels"])
def test_labels_read_from_cells_are_those_read_from_p(encoder):
    model = network(encoder=encoder, head=HeadConfig(hidden=0))
    parts = VolumePart(model).eval(), CellPart(model).eval()
    readers = RowLabels(model, parts[0]), CellLabels(model, parts[1])
    for seed in range(3):
        torch.manual_seed(seed)
        volume = 3 * torch.randn(8, 8, 8, 8)
        with torch.inference_mode():
            left = [[t.numpy() for t in part(volume)] for part in parts]
            quarters = 1 / (1 + np.exp(-np.quantile(left[0][0], (0.25, 0.5, 0.75))))
            for tau in (0.0, *quarters.tolist(), 1.0):
                (expected, sure), (labels, confidence) = (r(*a, tau) for r, a in zip(readers, left, strict=True))
                # A voxel on the threshold or between two classes may fall either way.
                assert (labels == expected).mean() > 0.998
                same = labels == expected
                np.testing.assert_allclose(confidence[same], sure[same], atol=1e-5)
                assert {0.0: (labels != 17).all(), 1.0: (labels == 17).all()}.get(tau, 0 < (labels == 17).mean() < 1)


def test_a_cell_without_a_number_is_free():
    model = network(encoder=CELLS, head=HeadConfig(hidden=0))
    part = CellPart(model).eval()
    with torch.inference_mode():
        opacity, rows = (t.numpy().copy() for t in part(torch.randn(8, 8, 8, 8)))
    opacity[3], rows[3] = np.nan, np.nan
    labels, confidence = CellLabels(model, part)(opacity, rows, 0.0)
    assert np.isfinite(confidence).all() and (labels == 17).sum() == opacity.shape[1]


def test_only_one_layer_behind_cells_can_skip_p():
    assert CellPart.serves(network(encoder=CELLS, head=HeadConfig(hidden=0)))
    assert not CellPart.serves(network(encoder=CELLS))
    assert not CellPart.serves(network(encoder=EncoderConfig("resnet3d", 4, 6), head=HeadConfig(hidden=0)))
    assert not CellPart.serves(network(head=HeadConfig(kind="nerf")))


def test_graphs_are_made_once_and_read_afterwards(own_cache, monkeypatch):
    model = network()
    assert Predictor(model, device="cpu", precision="float32", runtime="openvino").runtime == "openvino"
    folders = list(own_cache.iterdir())
    assert len(folders) == 1 and {p.name for p in folders[0].glob("*.xml")} == {"image.xml", "volume.xml"}

    def never(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("gsrender_core.engine.openvino_engine._graph", never)
    assert Predictor(model, device="cpu", precision="float32", runtime="openvino").runtime == "openvino"


def test_other_weights_are_another_graph(own_cache):
    for seed in (0, 1):
        model = network(seed)
        predictor = Predictor(model, device="cpu", precision="float32", runtime="openvino")
        assert_same(predictor._engine, predictor, frame_of(4))
    assert len(list(own_cache.iterdir())) == 2


def test_a_broken_graph_file_is_made_again(own_cache, caplog):
    model = network()
    Predictor(model, device="cpu", runtime="openvino")
    (path,) = own_cache.glob("*/image.xml")
    path.write_text(path.read_text()[:500])
    with caplog.at_level(logging.WARNING):
        again = Predictor(model, device="cpu", precision="float32", runtime="openvino")
    assert again.runtime == "openvino" and "made again" in caplog.text
    assert_same(again._engine, again, frame_of(5))


def test_the_graph_of_another_network_is_found_out(own_cache, caplog):
    """Its file under the right name: only the comparison with eager torch can tell."""
    ours, other = network(0), network(1)
    Predictor(other, device="cpu", precision="float32", runtime="openvino")
    (theirs,) = own_cache.iterdir()
    Predictor(ours, device="cpu", precision="float32", runtime="openvino")
    (mine,) = [folder for folder in own_cache.iterdir() if folder != theirs]
    for path in theirs.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(ours, device="cpu", precision="float32", runtime="auto")
    assert predictor.runtime == "eager" and "agree with the reference in" in caplog.text
    reference = Predictor(ours, device="cpu", precision="float32")
    assert np.array_equal(predictor(frame_of(6)).semantics, reference(frame_of(6)).semantics)


def test_shifted_confidences_are_refused():
    predictor = Predictor(network(), device="cpu", precision="float32")

    def engine(frame, tau):
        labels, confidence = predictor._by_torch(frame, tau)
        return labels, confidence * 0.9

    with pytest.raises(AgreementError, match="confidences differ by"):
        check_agreement(engine, predictor._by_torch, predictor.model.config, FLOAT)
    report = check_agreement(predictor._by_torch, predictor._by_torch, predictor.model.config, FLOAT)
    assert report == {"agreement": 1.0, "confidence_error": 0.0}


@pytest.mark.parametrize(
    ("changes", "runtime", "text"),
    [
        ({"view": ViewConfig(neck_channels=16, channels=8, history=True)}, "openvino", "earlier frames"),
        ({"head": HeadConfig(kind="nerf")}, "openvino", "makes no Gaussians"),
        ({"readout": "splat"}, "openvino", "needs every Gaussian"),
        ({}, "cuda_graph", "does not run on cpu"),
    ],
    ids=["history", "nerf", "splat", "no GPU"],
)
def test_what_cannot_serve_is_named_and_eager_goes_on(changes, runtime, text, caplog):
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(network(**changes), device="cpu", precision="float32", runtime=runtime)
    assert predictor.runtime == "eager" and text in predictor.fallback and "eager torch goes on" in caplog.text
    assert predictor(frame_of(1)).semantics.shape == (16, 16, 8)


def test_an_engine_that_fails_later_is_given_up(caplog, monkeypatch):
    predictor = Predictor(network(), device="cpu", precision="float32", runtime="openvino")
    reference = Predictor(predictor.model, device="cpu", precision="float32")

    def broken(*_):
        raise RuntimeError("no such engine")

    monkeypatch.setattr(predictor._engine, "see", broken)
    with caplog.at_level(logging.ERROR):
        grid = predictor(frame_of(1))
    assert predictor.runtime == "eager" and "no such engine" in predictor.fallback
    assert "runtime openvino failed (no such engine); eager torch goes on" in caplog.text
    assert np.array_equal(grid.semantics, reference(frame_of(1)).semantics)


def test_a_missing_library_is_named_and_eager_goes_on(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "gsrender_core.engine.openvino_engine", None)
    with caplog.at_level(logging.WARNING):
        assert Predictor(network(), device="cpu", runtime="auto").runtime == "eager"
    assert "openvino is not used" in caplog.text


@pytest.mark.parametrize("broken", ["", "wrong", "raises"])
def test_the_fastest_of_several_ways_serves_if_it_agrees(broken, monkeypatch, caplog):
    reference, clock = Predictor(network(), device="cpu", precision="float32"), [0.0]
    monkeypatch.setattr(engine_module.time, "perf_counter", lambda: clock[0])

    def build(name, seconds, fault=""):
        def engine(frame, tau):
            clock[0] += seconds
            labels, confidence = reference._by_torch(frame, tau)
            return (np.full_like(labels, 3) if fault == "wrong" else labels), confidence

        def make(*_):
            if fault == "raises":
                raise RuntimeError("no such kernel")
            engine.__name__ = name
            return engine

        return {name: make}

    ways = build("slow", 2.0) | build("fast", 1.0, broken) | build("slower", 3.0)
    monkeypatch.setitem(engine_module._RUNTIMES, "openvino", ("cpu", ways))
    with caplog.at_level(logging.INFO):
        engine, why = make_engine(reference.model, CPU, FLOAT, "auto", reference._by_torch)
    assert (engine.__name__, why) == ("slow" if broken else "fast", "")
    assert ("fast is not used" in caplog.text) == bool(broken) and "slow 2000.0 ms" in caplog.text


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match="unknown runtime 'fast'; use auto, eager, openvino, cuda_graph"):
        Predictor(network(), device="cpu", runtime="fast")


def test_another_read_out_or_tau_takes_effect_after_loading():
    predictor = Predictor(network(), device="cpu", precision="float32", runtime="openvino")
    taus = [opacity_reached_by(predictor, frame_of(1), share) for share in (0.1, 0.6)]
    few, many = (predictor(frame_of(1), tau).semantics != 17 for tau in taus)
    assert 0 < few.sum() < many.sum() and not (few & ~many).any()
    predictor.model.config = dataclasses.replace(predictor.model.config, readout="splat")
    assert predictor.runtime == "eager"
    predictor(frame_of(1))


def test_images_of_another_size_are_refused():
    predictor = Predictor(network(), device="cpu", precision="float32", runtime="openvino")
    with pytest.raises(ValueError, match="the network takes 96x64"):
        predictor(surround_frame((64, 64)))


def test_the_made_up_frame_is_the_same_every_time():
    a, b = surround_frame(SIZE, 4), surround_frame(SIZE, 4)
    assert np.array_equal(a.images, b.images) and a.images.shape == (4, 3, 64, 96)
    # The first camera looks ahead: its optical axis is the car's x axis.
    np.testing.assert_allclose(a.T_ego_cam[0, :3, 2], (1, 0, 0), atol=1e-12)


def test_backbones_of_a_few_strides_work_too():
    model = network(backbone=BackboneConfig(pretrained=False, strides=(16, 32)), view=ViewConfig(stride=16, channels=8))
    predictor = Predictor(model, device="cpu", precision="float32", runtime="openvino")
    assert_same(predictor._engine, predictor, frame_of(7))
