"""The GPU's kernels against their references, and the references against what the project had before.

Without CUDA the kernels run in Triton's interpreter, which has to be chosen before the import: in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_model

from gsrender_core.config import HeadConfig
from gsrender_core.engine import gpu_labels, gpu_lift, triton_kernels
from gsrender_core.engine.agreement import surround_frame
from gsrender_core.engine.gpu_network import GpuNetwork
from gsrender_core.model import lift_numba
from gsrender_core.model.fold import fold_batch_norms
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.model.lift_numba import splat_rows
from gsrender_core.model.parts import WholeNetwork, voxels_of_rays
from gsrender_core.model.view_transformer import LiftSplat, ego_from_pixel
from gsrender_core.voxel_grid import VoxelGrid

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(
    not triton_kernels.serve(torch.device(DEVICE)),
    reason="neither CUDA nor Triton's interpreter in this process",
)
FREE = 200  # no class: an unwritten or mistaken label shows
# Of the outputs. Float32's error is near 1e-5; tf32, which the interpreter does not round to, cuts factors at 2^-10 of
# themselves: at most 0.05 of sums whose root mean square is 5, by the same sums with factors cut in torch.
NEAR, NEAR_TF32 = 1e-4, 0.1 if DEVICE == "cuda" else 1e-4


def lift_inputs(seed: int, cells: int, features: int, bins: int, dtype=torch.float32) -> list[torch.Tensor]:
    """Rays that stay in a voxel for some bins and leave the grid at times; a volume full of rubbish."""
    rng = torch.Generator().manual_seed(seed)
    C, V = 3, 50
    voxel = torch.randint(-1, V, (C, bins, cells), generator=rng, dtype=torch.int32)
    stays = torch.rand(C, bins, cells, generator=rng) < 0.5
    for d in range(1, bins):
        voxel[:, d] = torch.where(stays[:, d], voxel[:, d - 1], voxel[:, d])
    voxel[:, :, 0] = -1  # one cell that sees nothing
    rows = torch.randn(C, cells, features, generator=rng).to(dtype)
    weights = torch.rand(C, bins, cells, generator=rng).to(dtype)
    return [voxel, rows, weights, torch.full((V, features), 7.0)]


def label_inputs(seed: int, count: int, features: int, hidden: int, classes: int, dtype=torch.float32) -> list:
    """A head with large weights, so that labels vary, and a threshold that about half of the rows reach."""
    rng = torch.Generator().manual_seed(seed)
    head = GaussianHead(HeadConfig(hidden=hidden), features, classes).requires_grad_(False)
    for layer in filter(None, (head.hidden, head.output)):
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng) * 2 / layer.in_features**0.5)
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=rng))
    rows = (torch.randn(count, features, generator=rng) * 2).to(dtype)
    opacity, logits = head.opacity_and_logits(rows.float())
    tau = torch.sigmoid(opacity).median()
    layers = [None, None] if head.hidden is None else [head.hidden.weight, head.hidden.bias]
    part = slice(6, 7 + classes)
    layers += [head.output.weight[part].contiguous(), head.output.bias[part].contiguous()]
    outputs = [torch.full((count,), 99, dtype=torch.uint8), torch.full((count,), -1.0)]
    return [[rows, *layers, tau, FREE, *outputs], opacity, logits]


def run(function, rows, *values) -> None:
    """A labelling function of what ``label_inputs`` lists."""
    layers, (tau, free, labels, confidence, *precision) = values[:4], values[4:]
    function(rows, gpu_labels.HeadWeights(*layers), tau, free, (labels, confidence), *precision)


def to_device(values: list) -> list:
    return [value.to(DEVICE, copy=True) if isinstance(value, torch.Tensor) else value for value in values]


def assert_same_labels(got: list, expected: list, opacity: torch.Tensor, logits: torch.Tensor, near: float) -> None:
    """Equal labels and confidences, but where tau or a second class is nearer than ``near``, before sigmoid/softmax."""
    best, second = torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], dim=1).topk(2).values.unbind(1)
    clear = ((opacity - torch.logit(expected[5])).abs() > near) & (best - second > near)
    assert clear.float().mean() > 0.85
    label, confidence = got[7].cpu(), got[8].cpu()
    assert torch.equal(label[clear], expected[7][clear])
    torch.testing.assert_close(confidence[clear], expected[8][clear], atol=near / 2, rtol=0)
    assert set(label.tolist()) <= {FREE, *range(logits.shape[1])}
    occupied = label != FREE
    assert 0.3 < occupied.float().mean() < 0.7 and (confidence[occupied] > 0).all() and not confidence[~occupied].any()


def place_inputs(seed: int, cells: tuple[int, int]) -> list:
    """Two cameras that look anywhere from inside a grid that some of their rays leave."""
    rng = torch.Generator().manual_seed(seed)
    view = LiftSplat(VoxelGrid((-4.0, -3.0, -1.0), 0.5, (16, 12, 6)), 2, 8, torch.linspace(0.5, 9, 13))
    rotation = torch.linalg.qr(torch.randn(2, 3, 3, generator=rng)).Q
    K_inverse = torch.tensor([[1 / 50, 0, -0.4], [0, 1 / 60, -0.3], [0, 0, 1]])
    return [view, cells, rotation @ K_inverse, torch.rand(2, 3, generator=rng) * 2 - 1]


@pytest.mark.parametrize("seed", range(3))
def test_place_reference_equals_the_one_for_cpus(seed):
    view, cells, ego_from_pixel, origins = place_inputs(seed, (7, 9))
    lattice = view.low, view.size, view.shape
    expected = lift_numba.voxels_of_rays(ego_from_pixel, origins, view.bin_centers_m, cells, view.stride, lattice)
    got = voxels_of_rays(view, cells, ego_from_pixel, origins)
    assert 0.1 < (got < 0).float().mean() < 0.9
    assert (got.numpy() == expected).mean() > 0.999  # a point on a border may fall to either side


def test_lift_reference_by_hand():
    voxel = torch.tensor([[[1, -1], [1, 0]]], dtype=torch.int32)  # one camera, two bins, two cells
    rows, weights = torch.tensor([[[2.0, -4.0], [1.0, 8.0]]]), torch.tensor([[[0.25, 0.5], [0.5, 0.125]]])
    volume = torch.full((3, 2), 7.0)
    gpu_lift.lift_reference(voxel, rows, weights, volume)
    assert volume.tolist() == [[0.125, 1.0], [1.5, -3.0], [0.0, 0.0]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("features", [12, 20, 64])
def test_lift_reference_equals_the_one_for_cpus(seed, features):
    voxel, rows, weights, volume = lift_inputs(seed, 37, features, 25)
    expected = np.empty(volume.shape, np.float32)
    splat_rows(voxel.numpy(), rows.numpy(), weights.numpy(), expected)
    gpu_lift.lift_reference(voxel, rows, weights, volume)
    assert (expected != 0).all()
    np.testing.assert_allclose(volume.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("features, hidden, classes", [(12, 24, 17), (32, 64, 17), (20, 0, 17), (64, 0, 3)])
def test_label_reference_equals_the_head_and_the_network_s_formula(seed, features, hidden, classes):
    inputs, opacity, logits = label_inputs(seed, 501, features, hidden, classes)
    run(gpu_labels.label_rows_reference, *inputs)
    # As the end of ``WholeNetwork.forward``.
    best, label = torch.softmax(logits, dim=-1).max(dim=-1)
    opacity, tau = torch.sigmoid(opacity), inputs[5]
    occupied = opacity >= tau
    confidence = torch.where(occupied, opacity * best, torch.zeros_like(opacity))
    label = torch.where(occupied, label, torch.full_like(label, FREE)).to(torch.uint8)
    clear = (opacity - tau).abs() > 1e-6
    assert clear.float().mean() > 0.95 and len(label.unique()) > 0.4 * classes
    assert torch.equal(inputs[7][clear], label[clear])
    torch.testing.assert_close(inputs[8][clear], confidence[clear], atol=1e-5, rtol=0)


@runs_kernels
@pytest.mark.parametrize("cells", [(7, 9), (1, 1), (20, 30)], ids=str)
def test_place_kernel_equals_its_reference(cells):
    for seed in range(3):
        view, _, *geometry = place_inputs(seed, cells)
        expected = voxels_of_rays(view, cells, *geometry)
        voxel = torch.full(expected.shape, 99, dtype=torch.int32, device=DEVICE)
        gpu_lift.place(view.to(DEVICE), cells, *to_device(geometry), voxel)
        assert (voxel.cpu() == expected).float().mean() > 0.999  # a point on a border may fall to either side


@runs_kernels
def test_rays_that_are_no_numbers_or_far_away_are_outside():
    view, cells, ego_from_pixel, origins = place_inputs(0, (4, 5))
    ego_from_pixel[0, 0, 0], origins[1] = torch.nan, 1e30
    voxel = torch.full((2, 13, 20), 99, dtype=torch.int32, device=DEVICE)
    gpu_lift.place(view.to(DEVICE), cells, *to_device([ego_from_pixel, origins]), voxel)
    assert (voxel == -1).all()


def test_bad_input_of_the_places():
    view, cells, ego_from_pixel, origins = place_inputs(0, (4, 5))
    voxel = torch.empty(2, 13, 20, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"voxel has shape \[2, 13, 20\]; \[2, 13, 21\] is wanted"):
        gpu_lift.place(view, (3, 7), ego_from_pixel, origins, voxel)
    with pytest.raises(ValueError, match="origins is torch.float64"):
        gpu_lift.place(view, cells, ego_from_pixel, origins.double(), voxel)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cells, features, bins", [(37, 12, 25), (70, 20, 22), (19, 64, 45), (5, 1, 1)])
def test_lift_kernel_equals_its_reference(cells, features, bins, dtype):
    for seed in range(2):
        inputs = lift_inputs(seed, cells, features, bins, dtype)
        got = to_device(inputs)
        gpu_lift.lift(*got)
        gpu_lift.lift_reference(*inputs)
        # Some hundred summands below 5 each in another order: far below 1e-4, while a lost one is about 0.5.
        torch.testing.assert_close(got[3].cpu(), inputs[3], atol=1e-4, rtol=1e-5)


@runs_kernels
@pytest.mark.parametrize("features", [12, 64])
def test_lift_kernel_keeps_nan_in_its_voxel(features):
    inputs = lift_inputs(4, 30, features, 7)
    inputs[2][1, 3, 5], inputs[1][2, 9, -1] = torch.nan, torch.inf
    inputs[0][1, 3, 5] = 11
    got = to_device(inputs)
    gpu_lift.lift(*got)
    gpu_lift.lift_reference(*inputs)
    assert inputs[3][11].isnan().all() and inputs[3].isfinite().any(1).sum() > 40
    torch.testing.assert_close(got[3].cpu(), inputs[3], atol=1e-4, rtol=1e-5, equal_nan=True)


# Numbers of 1 and multiples of 16 compile to code of their own.
@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "count, features, hidden, classes",
    [(301, 12, 24, 17), (128, 32, 64, 17), (530, 20, 0, 17), (65, 64, 24, 1), (65, 64, 0, 33), (77, 1, 1, 2)],
)
def test_label_kernel_equals_its_reference(count, features, hidden, classes, dtype):
    for seed in range(2):
        inputs, opacity, logits = label_inputs(seed, count, features, hidden, classes, dtype)
        got = to_device(inputs)
        run(gpu_labels.label_rows, *got)
        run(gpu_labels.label_rows_reference, *inputs)
        assert_same_labels(got, inputs, opacity, logits, NEAR_TF32 if dtype == torch.bfloat16 else NEAR)


@runs_kernels
@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_label_kernel_in_every_precision(precision):
    inputs, opacity, logits = label_inputs(5, 300, 32, 64, 17)
    got = to_device(inputs)
    run(gpu_labels.label_rows, *got, precision)
    run(gpu_labels.label_rows_reference, *inputs)
    assert_same_labels(got, inputs, opacity, logits, NEAR_TF32 if precision == "tf32" else NEAR)


@runs_kernels
@torch.no_grad()
@pytest.mark.parametrize("hidden", [24, 0])
def test_a_network_of_kernels_equals_one_of_torch(hidden):
    torch.manual_seed(hidden)
    model = GSRender(small_model(head=HeadConfig(hidden=hidden)), load_pretrained=False).eval()
    model.head.output.weight.normal_()
    model = fold_batch_norms(model).to(DEVICE)
    ours, theirs = GpuNetwork(model, torch.float32).eval(), WholeNetwork(model).eval()
    frame = surround_frame(model.config.image_size, cameras=3)
    images, Ks, T = (torch.from_numpy(a).to(DEVICE) for a in (frame.images, frame.Ks, frame.T_ego_cam))
    Ks, T = Ks.float(), T.float()
    inputs = [images, Ks, T, ego_from_pixel(Ks, T)]
    opacity, _ = model.opacity_and_logits(model(CameraInput.from_frames([frame], torch.device(DEVICE)))[0])
    tau = torch.sigmoid(opacity).median()
    (labels, confidence), (expected, sure) = ours(*inputs, tau), theirs(*inputs, tau)
    assert 0.05 < (expected != 17).float().mean() < 0.95
    same = labels == expected
    assert same.float().mean() > 0.999
    torch.testing.assert_close(confidence[same], sure[same], atol=1e-4, rtol=0)


@runs_kernels
@pytest.mark.parametrize("hidden", [24, 0])
def test_label_kernel_takes_nan_as_free(hidden):
    inputs, _, _ = label_inputs(7, 70, 12, hidden, 17)
    rows, tau = inputs[0], inputs[5]
    rows[::2] = torch.nan
    tau.fill_(0.0)  # every opacity reaches it but NaN
    got = to_device(inputs)
    run(gpu_labels.label_rows, *got)
    label, confidence = got[7].cpu(), got[8].cpu()
    assert (label[::2] == FREE).all() and not confidence[::2].any()
    assert (label[1::2] < 17).all() and (confidence[1::2] > 0).all()


@runs_kernels
@pytest.mark.parametrize("hidden", [24, 0])
def test_label_kernel_keeps_infinite_features_out_of_the_padding(hidden):
    inputs, _, _ = label_inputs(8, 70, 12, hidden, 17)
    inputs[0].zero_()[:, 0] = torch.inf
    for weight in (inputs[1], inputs[3]):
        if weight is not None:
            weight.fill_(1.0)
    got = to_device(inputs)
    run(gpu_labels.label_rows, *got)
    run(gpu_labels.label_rows_reference, *inputs)
    # Opacity 1; softmax of infinities has no value.
    assert (got[7] < 17).all() and got[8].isnan().all() and inputs[8].isnan().all()


@runs_kernels
@pytest.mark.parametrize("hidden", [24, 0])
def test_label_kernel_by_hand_with_two_equal_classes(hidden):
    inputs, _, _ = label_inputs(9, 70, 12, hidden, 4)
    inputs[3].zero_()
    inputs[4].copy_(torch.tensor([1.0, 0.0, 2.0, 2.0, -1.0]))
    inputs[5].fill_(0.5)
    got = to_device(inputs)
    run(gpu_labels.label_rows, *got)
    assert (got[7] == 1).all()  # the first
    sure = 1 / (1 + np.exp(-1)) / (2 + np.exp(-2) + np.exp(-3))
    torch.testing.assert_close(got[8].cpu(), torch.full((70,), sure, dtype=torch.float32))


@runs_kernels
def test_no_cells_and_no_rows_of_a_kernel():
    voxel, rows, weights, volume = to_device(lift_inputs(0, 8, 4, 3))
    gpu_lift.lift(voxel[:, :, :0].contiguous(), rows[:, :0].contiguous(), weights[:, :, :0].contiguous(), volume)
    assert not volume.any()
    inputs = to_device(label_inputs(0, 8, 4, 0, 3)[0])
    inputs[0], inputs[7], inputs[8] = inputs[0][:0], inputs[7][:0], inputs[8][:0]
    run(gpu_labels.label_rows, *inputs)


@pytest.mark.skipif(triton_kernels.triton is None, reason="Triton is not installed")
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the kernels run in this process")
def test_kernels_in_triton_s_interpreter():
    wanted = "(kernel or rays_that) and not interpreter and not wrong_device"
    chosen = ["-m", "pytest", __file__, "-k", wanted, "-p", "no:cacheprovider"]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, *chosen], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-1000:]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes any device")
def test_kernels_on_the_wrong_device_say_what_to_call():
    inputs, _, _ = label_inputs(0, 8, 4, 0, 3)
    missing = triton_kernels.triton is None
    error, what = (RuntimeError, "Triton cannot") if missing else (ValueError, "on cpu; a CUDA")
    with pytest.raises(error, match=f"{what}.*call lift_reference"):
        gpu_lift.lift(*lift_inputs(0, 8, 4, 3))
    with pytest.raises(error, match=f"{what}.*call label_rows_reference"):
        run(gpu_labels.label_rows, *inputs)


BAD_LIFT = {
    "axes": (0, lambda t: t[0], r"voxel has shape \[3, 8\]; \[C, D, N\] is wanted"),
    "index": (0, lambda t: t.long(), "voxel is torch.int64; torch.int32 is wanted"),
    "cells": (1, lambda t: t[:, 1:].contiguous(), r"rows has shape \[3, 7, 4\]; \[3, 8, 4\] is wanted"),
    "half": (1, lambda t: t.half(), "rows is torch.float16; torch.float32 or torch.bfloat16 is wanted"),
    "bins": (2, lambda t: t[:, 1:].contiguous(), r"weights has shape \[3, 2, 8\]; \[3, 3, 8\] is wanted"),
    "strides": (2, lambda t: t.mT.contiguous().mT, r"weights has strides \[24, 1, 3\]; contiguous"),
    "features": (3, lambda t: t[:, 1:].contiguous(), r"volume has shape \[50, 3\]; \[50, 4\] is wanted"),
    "sum": (3, lambda t: t.double(), "volume is torch.float64; torch.float32 is wanted"),
    "device": (3, lambda t: t.to("meta"), "volume is on meta; cpu, where the other tensors are, is wanted"),
}
BAD_LABELS = {
    "axes": (0, lambda t: t[0], r"rows has shape \[4\]; \[N, F\] is wanted"),
    "half": (0, lambda t: t.half(), "rows is torch.float16; torch.float32 or torch.bfloat16 is wanted"),
    "hidden": (1, lambda t: t[:, 1:].contiguous(), r"hidden_weight has shape \[6, 3\]; \[6, 4\] is wanted"),
    "pair": (2, lambda t: None, "hidden_bias alone is None"),
    "classes": (3, lambda t: t[:1], "output_weight has 1 rows; opacity and 1 to 256 classes are wanted"),
    "inputs": (3, lambda t: t[:, 1:].contiguous(), r"output_weight has shape \[4, 5\]; \[4, 6\] is wanted"),
    "strides": (3, lambda t: t.T.contiguous().T, r"output_weight has strides \[1, 4\]; contiguous"),
    "weights": (4, lambda t: t.bfloat16(), "output_bias is torch.bfloat16; torch.float32 is wanted"),
    "tau": (5, lambda t: t.view(1), r"tau has shape \[1\]; \[\] is wanted"),
    "free": (6, lambda v: 256, "free is 256; labels are uint8, so 0 to 255"),
    "labels": (7, lambda t: t.int(), "labels is torch.int32; torch.uint8 is wanted"),
    "rows": (8, lambda t: t[1:], r"confidence has shape \[7\]; \[8\] is wanted"),
    "device": (8, lambda t: t.to("meta"), "confidence is on meta; cpu, where the other tensors are, is wanted"),
}


@pytest.mark.parametrize("place, spoil, message", BAD_LIFT.values(), ids=BAD_LIFT)
def test_bad_input_of_the_lift(place, spoil, message):
    inputs = lift_inputs(0, 8, 4, 3)
    inputs[place] = spoil(inputs[place])
    for function in (gpu_lift.lift, gpu_lift.lift_reference):
        with pytest.raises(ValueError, match=message):
            function(*inputs)


@pytest.mark.parametrize("place, spoil, message", BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_input_of_the_labels(place, spoil, message):
    inputs, _, _ = label_inputs(0, 8, 4, 6, 3)
    inputs[place] = spoil(inputs[place])
    for function in (gpu_labels.label_rows, gpu_labels.label_rows_reference):
        with pytest.raises(ValueError, match=message):
            run(function, *inputs)


def test_unknown_precision():
    with pytest.raises(ValueError, match="precision is 'fp16'; 'ieee', 'tf32', 'tf32x3' or None is wanted"):
        run(gpu_labels.label_rows, *label_inputs(0, 8, 4, 0, 3)[0], "fp16")
