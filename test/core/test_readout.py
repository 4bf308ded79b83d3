import math

import numpy as np
import pytest
import torch
from small import GRID as SMALL
from small import SmallData, small_model

from gsrender_core import readout
from gsrender_core.checkpoint import save_checkpoint
from gsrender_core.config import HeadConfig
from gsrender_core.gaussians import Gaussians
from gsrender_core.model.gsrender import GSRender
from gsrender_core.predictor import Predictor
from gsrender_core.readout import anchored, splat_evidence, splat_torch
from gsrender_core.readout_reference import splat_evidence_reference
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid((-2.0, -1.2, -0.8), 0.4, (10, 6, 4))
CENTERS = torch.from_numpy(GRID.centers_ego()).view(-1, 3)
K = 5


def one(mean, scale=0.2, opacity=0.8, logits=(0.0, 3.0, 0.0, 0.0, 0.0), quat=None) -> Gaussians:
    return Gaussians(
        torch.tensor([mean]),
        torch.tensor([[scale] * 3 if isinstance(scale, float) else scale]),
        torch.tensor([opacity]),
        torch.tensor([logits]),
        None if quat is None else torch.tensor([quat]),
    )


def both(*gaussians: Gaussians) -> Gaussians:
    quats = None if gaussians[0].quats is None else torch.cat([g.quats for g in gaussians])
    return Gaussians(*(torch.cat([getattr(g, name) for g in gaussians])
                       for name in ("means", "scales", "opacities", "logits")), quats)  # fmt: skip


def random_gaussians(n: int, turned: bool, seed: int) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=-1) if turned else None
    return Gaussians(
        torch.rand(n, 3, generator=g) * torch.tensor([5.0, 4.0, 3.0]) - torch.tensor([2.5, 2.0, 1.2]),
        torch.rand(n, 3, generator=g) * 0.5 + 0.05,
        torch.rand(n, generator=g) ** 3,
        torch.randn(n, K, generator=g) * 3,
        quats,
    )


def test_a_centred_gaussian_fills_its_voxel_as_eq_7_and_its_neighbours_by_the_integral():
    at = (0.2, 0.2, 0.2)  # centre of voxel (5, 3, 2)
    seen = splat_evidence(one(at), GRID)
    # One voxel away, s = 1/2 voxel: w = [erf(3 / sqrt 2) - erf(1 / sqrt 2)] / (2 erf(1 / sqrt 2)).
    w = (math.erf(3 / math.sqrt(2)) - math.erf(1 / math.sqrt(2))) / (2 * math.erf(1 / math.sqrt(2)))
    assert w == pytest.approx(0.2305, abs=1e-4)
    assert seen.opacity[5, 3, 2].item() == pytest.approx(0.8)
    assert seen.opacity[6, 3, 2].item() == pytest.approx(0.8 * w, abs=1e-6)
    assert seen.opacity[4, 3, 2].item() == pytest.approx(0.8 * w, abs=1e-6)
    assert seen.opacity[6, 2, 2].item() == pytest.approx(0.8 * w * w, abs=1e-6)
    assert seen.opacity[6, 2, 3].item() == pytest.approx(0.8 * w**3, abs=1e-6)
    assert seen.opacity[7, 3, 2].item() == 0  # its box of 3 s ends at the voxel's border
    assert seen.label[6, 3, 2].item() == 1
    assert seen.probability[6, 3, 2].item() == pytest.approx(math.exp(3) / (math.exp(3) + 4), abs=1e-6)


def test_two_gaussians_add_their_probabilities_not_their_logits():
    # The faint one has huge logits: summed logits would say class 2, probabilities say class 1.
    faint = one((0.2, 0.2, 0.2), 0.05, 0.1, (0.0, 0.0, 100.0, 0.0, 0.0))
    seen = splat_evidence(both(one((0.2, 0.2, 0.2), 0.05, 0.6, (0.0, 9.0, 0.0, 0.0, 0.0)), faint), GRID)
    assert seen.opacity[5, 3, 2].item() == pytest.approx(1 - 0.4 * 0.9)
    assert seen.label[5, 3, 2].item() == 1
    p = math.exp(9) / (math.exp(9) + 4)
    assert seen.probability[5, 3, 2].item() == pytest.approx(0.6 * p / 0.7, abs=1e-5)


def test_narrow_gaussians_at_their_voxels_centres_are_eq_7():
    g = torch.Generator().manual_seed(3)
    opacities = 0.01 + 0.98 * torch.rand(GRID.size, generator=g)
    gaussians = Gaussians(
        CENTERS, torch.full((GRID.size, 3), 0.05), opacities, torch.randn(GRID.size, K, generator=g) * 2
    )
    seen, plain = splat_evidence(gaussians, GRID), gaussians.evidence()
    torch.testing.assert_close(seen.opacity.view(-1), plain.opacity, atol=2e-7, rtol=0)
    assert torch.equal(seen.label.view(-1), plain.label)
    torch.testing.assert_close(seen.probability.view(-1), plain.probability, atol=1e-5, rtol=0)


def test_a_gaussian_speaks_for_the_voxel_it_moved_to():
    seen = splat_evidence(one((0.2 + 0.8, 0.2, 0.2), 0.05), GRID)
    assert seen.opacity[7, 3, 2].item() == pytest.approx(0.8) and seen.opacity.sum().item() == pytest.approx(0.8)


def test_on_a_border_it_speaks_half_for_either_side():
    seen = splat_evidence(one((0.4, 0.2, 0.2), 0.05), GRID)
    assert seen.opacity[5, 3, 2].item() == pytest.approx(0.4, abs=1e-4) == seen.opacity[6, 3, 2].item()


def test_a_quarter_turn_swaps_the_axes():
    half = math.sqrt(0.5)
    turned = splat_evidence(one((0.2, 0.2, 0.2), (0.6, 0.1, 0.2), quat=(half, 0.0, 0.0, half)), GRID)  # about z
    straight = splat_evidence(one((0.2, 0.2, 0.2), (0.1, 0.6, 0.2)), GRID)
    torch.testing.assert_close(turned.opacity, straight.opacity, atol=1e-6, rtol=0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("device", ["numba", "torch"])
def test_fast_paths_equal_the_reference(turned, device, monkeypatch):
    gaussians = random_gaussians(150, turned, int(np.random.default_rng().integers(1 << 30)))
    if device == "torch":
        monkeypatch.setattr(readout, "_splat_numba", splat_torch)
        monkeypatch.setattr(readout, "_PAIRS", 5000)  # several chunks
    seen = splat_evidence(gaussians, GRID)
    opacity, votes = splat_evidence_reference(gaussians, GRID)
    assert 0.02 < opacity.mean() < 0.98
    np.testing.assert_allclose(seen.opacity.numpy(), opacity, atol=2e-5)
    total = votes.sum(axis=-1)
    there = total > 1e-3
    ordered = np.sort(votes, axis=-1)
    clear = there & (ordered[..., -1] - ordered[..., -2] > 1e-3 * total)
    assert clear.mean() > 0.5
    assert (seen.label.numpy()[clear] == votes.argmax(axis=-1)[clear]).all()
    np.testing.assert_allclose(seen.probability.numpy()[there], (ordered[..., -1] / total.clip(1e-9))[there], atol=1e-3)


def test_the_number_of_threads_changes_nothing():
    gaussians = random_gaussians(2000, False, 7)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(splat_evidence(gaussians, GRID))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0].opacity, results[1].opacity)
    assert torch.equal(results[0].probability, results[1].probability)


def test_classes_are_summed_where_they_are_asked_for():
    gaussians = random_gaussians(60, False, 5)
    every, some = splat_evidence(gaussians, GRID), splat_evidence(gaussians, GRID, 0.4)
    asked = every.opacity >= 0.4
    assert 0 < asked.sum() < GRID.size
    assert torch.equal(every.opacity, some.opacity)
    assert torch.equal(every.label[asked], some.label[asked]) and (some.probability[~asked] == 0).all()
    for tau in (0.4, 0.7):
        assert torch.equal(every.at(tau, 17)[0], some.at(tau, 17)[0])


@pytest.mark.parametrize("device", ["numba", "torch"])
def test_nothing_in_sight_is_an_empty_grid(device, monkeypatch):
    if device == "torch":
        monkeypatch.setattr(readout, "_splat_numba", splat_torch)
    faint, far = one((0.2, 0.2, 0.2), opacity=0.003), one((500.0, 0.0, -1e9))
    for gaussians in (faint, far, faint.select(torch.zeros(0, dtype=torch.int64))):
        assert (splat_evidence(gaussians, GRID).opacity == 0).all()


def test_anchored_silences_what_has_left_its_voxel():
    centers = CENTERS[:3]
    means = centers + torch.tensor([[0.19, -0.19, 0.0], [0.0, 0.0, 0.21], [-0.3, 0.0, 0.0]])
    gaussians = Gaussians(means, torch.full((3, 3), 0.2), torch.tensor([0.5, 0.6, 0.7]), torch.zeros(3, K))
    assert anchored(gaussians, centers, 0.4).opacities.tolist() == [0.5, 0, 0]


def test_eq_7_by_hand():
    logits = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    gaussians = Gaussians(torch.zeros(3, 3), torch.ones(3, 3), torch.tensor([0.3, 0.1, 0.29]), logits)
    labels, confidence = gaussians.to_occupancy(0.3, 17)
    assert labels.tolist() == [1, 17, 17] and labels.dtype == torch.uint8
    assert confidence[0].item() == pytest.approx(0.3 * math.exp(2) / (math.exp(2) + 2))
    assert confidence[1:].tolist() == [0, 0]


def test_the_network_reads_out_as_configured():
    model = GSRender(small_model()).eval()
    P = torch.randn(6, *SMALL.shape)
    with torch.no_grad():
        torch.nn.init.normal_(model.head.output.weight, std=0.5)
        model.head.output.weight[:3] *= 0.1
        offsets = model.gaussians(P).means - model.centers
        model.head.output.bias[:3] = -torch.atanh(offsets.median(dim=0).values / 1.2)
        offsets = (model.gaussians(P).means - model.centers).abs().amax(dim=1)
        assert 0.02 < (offsets > 0.25).float().mean() < 0.98  # some leave their voxels, some stay
        gaussians = model.gaussians(P)
        tau = gaussians.opacities.median().item()
        expected = {
            "voxel": gaussians.to_occupancy(tau, 17)[0].view(SMALL.shape),
            "voxel_anchored": anchored(gaussians, model.centers, 0.5).to_occupancy(tau, 17)[0].view(SMALL.shape),
            "splat": splat_evidence(gaussians, SMALL).at(tau, 17)[0],
        }
        filled = {}
        for readout_name, labels in expected.items():
            model.config = small_model(readout=readout_name)
            got = model.occupancy(P, tau)[0]
            assert (got != labels).float().mean() < 1e-3, readout_name  # rounding at the threshold itself
            assert torch.equal(model.evidence(P, readout_name, tau).at(tau, 17)[0], got) or readout_name == "voxel"
            filled[readout_name] = (got != 17).sum().item()
    assert 0 < filled["voxel_anchored"] < filled["voxel"] < filled["splat"]


def test_the_readout_travels_in_the_checkpoint(tmp_path):
    model = GSRender(small_model(readout="splat", head=HeadConfig(base_scale_m=0.4))).eval()
    save_checkpoint(tmp_path / "m.safetensors", model, {})
    predictor = Predictor.load(tmp_path / "m.safetensors", "cpu", "float32")
    frame = SmallData().frame(0)
    seen = predictor.model.evidence(predictor.features(frame), "splat").at(predictor.tau, 17)[0]
    assert predictor.model.config.readout == "splat"
    assert (predictor(frame).semantics == seen.numpy()).all()


def test_a_readout_that_nobody_can_serve_is_named():
    with pytest.raises(ValueError, match="model.readout: 'nearest' is none of voxel, voxel_anchored, splat"):
        small_model(readout="nearest")
    with pytest.raises(ValueError, match="'splat' reads means and scales of Gaussians, which head.kind 'nerf' has not"):
        small_model(readout="splat", head=HeadConfig(kind="nerf"))
    model = GSRender(small_model(head=HeadConfig(kind="nerf")))
    with pytest.raises(ValueError, match="head.kind 'nerf' has not"):
        model.evidence(torch.zeros(6, *SMALL.shape), "splat")
