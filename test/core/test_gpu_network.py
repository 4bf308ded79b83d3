"""The network that a GPU predicts with: its parts on any device, the graph of it where there is CUDA."""

import copy

import pytest
import torch
from engines import FLOAT, SUBPIXEL, assert_same, frame_of, network

from gsrender_core.config import BackboneConfig, ViewConfig
from gsrender_core.engine.agreement import check_agreement
from gsrender_core.engine.cuda_graph_engine import CudaGraphEngine
from gsrender_core.engine.fused_convolutions import ConvReLU, ResidualReLU, _zero_map
from gsrender_core.engine.gpu_network import GpuNetwork
from gsrender_core.model.parts import WholeNetwork
from gsrender_core.model.view_transformer import ego_from_pixel
from gsrender_core.predictor import Predictor
from gsrender_core.runtime import multiplies_bfloat16

RESNET = {
    "backbone": BackboneConfig("resnet18", pretrained=False, strides=(16, 32)),
    "view": ViewConfig(stride=16, neck="joined", neck_channels=16, channels=8),
}


@torch.no_grad()
def test_bfloat16_leaves_geometry_and_head_in_float32():
    """As in eager torch: rays in bfloat16 end in a neighbouring voxel, and opacities lose their third digit."""
    whole, frame = WholeNetwork(network(encoder=SUBPIXEL)).eval(), frame_of(8)
    images, Ks, T = (torch.from_numpy(a) for a in (frame.images, frame.Ks, frame.T_ego_cam))
    Ks, T = Ks.float(), T.float()
    probability, rows = whole.images(images, Ks, T)
    geometry, volumes = (ego_from_pixel(Ks, T), T[:, :3, 3]), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            volumes.append(whole._lift(probability, rows, *geometry))
    assert torch.equal(*volumes)
    with torch.autocast("cpu", torch.bfloat16):
        opacity, P = whole.volume(volumes[0])
    torch.testing.assert_close(opacity, whole.volume.head.opacity(P))


@torch.no_grad()
def test_a_fused_network_is_the_same_function():
    """``resnet50`` has the same blocks with one convolution more."""
    model = Predictor(network(**RESNET, encoder=SUBPIXEL), device="cpu", precision="float32").model
    fused = GpuNetwork(model, FLOAT)
    kinds = [type(module) for module in fused.modules()]
    # 8 residual blocks of the backbone, 1 of the depth net, 6 of the encoder; two convolutions of the neck, one of the
    # encoder, and the first one of every residual block. The first of the backbone takes three channels.
    assert (kinds.count(ResidualReLU), kinds.count(ConvReLU)) == (15, 15 + 3)
    frame = frame_of(11)
    inputs = [torch.from_numpy(a) for a in (frame.images, frame.Ks, frame.T_ego_cam)]
    Ks, T = inputs[1].float(), inputs[2].float()
    for ours, theirs in zip(fused.images(inputs[0], Ks, T), WholeNetwork(model).images(inputs[0], Ks, T), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(list(model.modules())) == len(list(copy.deepcopy(model).modules())), "the model itself was changed"


@pytest.mark.parametrize("how", [(1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (5, 3, 0, 2), (3, 1, 6, 6)], ids=str)
def test_zeros_stand_where_a_convolution_will(how):
    kernel, stride, padding, dilation = how
    conv = torch.nn.Conv2d(8, 16, kernel, stride, padding, dilation)
    small, large = torch.zeros(1, 8, 11, 15), torch.zeros(2, 8, 20, 13)
    for x in (small, large, small):
        zeros = _zero_map(x, conv)
        assert zeros.shape == conv(x).shape and not zeros.any()
        assert zeros.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_a_network_in_bfloat16_is_autocast_to_a_few_thousandths():
    model = Predictor(network(**RESNET), device="cpu", precision="float32").model
    whole, ours = WholeNetwork(model).eval(), GpuNetwork(model, torch.bfloat16).eval()
    assert next(model.parameters()).dtype == FLOAT, "the model itself was changed"
    assert {p.dtype for p in ours.volume.head.parameters()} == {FLOAT}
    for seed in (12, 13):
        frame = frame_of(seed)
        images, Ks, T = (torch.from_numpy(a) for a in (frame.images, frame.Ks, frame.T_ego_cam))
        Ks, T = Ks.float(), T.float()
        geometry = images, Ks, T, ego_from_pixel(Ks, T)
        _, everywhere = whole(*geometry, torch.tensor(0.0))
        tau = everywhere.quantile(0.5)
        (exact, _), (labels, _) = whole(*geometry, tau), ours(*geometry, tau)
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = whole(*geometry, tau)
        agreement, usual = ((a == exact).float().mean() for a in (labels, cast))
        assert agreement > 0.9 and agreement > usual - 0.03, (agreement, usual)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("plain", [True, False], ids=["torch's kernels", "fused kernels"])
@pytest.mark.parametrize("changes", [{"encoder": SUBPIXEL}, RESNET], ids=["subpixel", "resnet"])
def test_cuda_graph_equals_eager_torch_on_random_frames(changes, plain, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # else float32 convolutions keep 11 bits
    predictor = Predictor(network(**changes), device="cuda", precision="float32")
    engine = CudaGraphEngine(predictor.model, predictor.device, FLOAT, plain)
    for seed, cameras in ((1, 3), (2, 3), (3, 1)):
        assert_same(engine, predictor, frame_of(seed, cameras))
    predictor = Predictor(network(**changes), device="cuda", precision="bfloat16")
    engine = CudaGraphEngine(predictor.model, predictor.device, torch.bfloat16, plain)
    check_agreement(engine, predictor._by_torch, predictor.model.config, torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@torch.inference_mode()
def test_fused_convolutions_do_not_read_what_lay_in_memory():
    for dtype in (torch.float32, torch.bfloat16):
        conv = torch.nn.Conv2d(16, 24, 3, padding=1).to("cuda", dtype).to(memory_format=torch.channels_last)
        fused = ConvReLU(conv)
        for size in (20, 33):
            x = torch.randn(2, 16, size, size, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
            expected = torch.relu(conv(x).float())
            del_me = [torch.full_like(expected, torch.nan, dtype=dtype) for _ in range(4)]
            del del_me
            torch.testing.assert_close(fused(x).float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("capability, has", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_before_ampere_do_not_multiply_bfloat16(capability, has, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert multiplies_bfloat16(torch.device("cuda")) is has


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_predicts_by_a_graph():
    predictor = Predictor(network(), device="cuda", runtime="auto")
    assert (predictor.runtime, predictor.fallback) == ("cuda_graph", "")
