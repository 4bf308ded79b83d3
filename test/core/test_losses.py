import math

import pytest
import torch

from gsrender_core.losses import depth_loss, depth_net_loss, dynamic_weights, offset_drift_loss, semantic_loss


def test_semantic_loss_is_the_balanced_mean_and_alpha_only_scales_the_numerator():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([0, 0])
    beta = torch.tensor([3.0, 1.0])
    single = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))]
    assert semantic_loss(logits, target, beta).item() == pytest.approx(sum(single) / 2)
    alpha = torch.tensor([0.1, 0.1])
    assert semantic_loss(logits, target, beta, alpha).item() == pytest.approx(0.1 * sum(single) / 2)


def test_semantic_loss_weighs_classes_by_beta():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([0, 1])
    beta = torch.tensor([3.0, 1.0])
    expected = (3 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 4
    assert semantic_loss(logits, target, beta).item() == pytest.approx(expected)


def test_ignored_labels_carry_no_semantic_loss():
    logits = torch.randn(3, 17, requires_grad=True)
    loss = semantic_loss(logits, torch.tensor([255, 255, 255]), torch.ones(17))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0


def test_silog_by_hand_and_fully_scale_invariant_at_lambda_one():
    depth, target, alpha = torch.tensor([2.0, 8.0]), torch.tensor([1.0, 2.0]), torch.ones(2)
    d = [math.log(2), math.log(4)]
    expected = math.sqrt((d[0] ** 2 + d[1] ** 2) / 2 - 0.85 * ((d[0] + d[1]) / 2) ** 2 + 1e-6)
    assert depth_loss(depth, target, alpha).item() == pytest.approx(expected, rel=1e-5)
    once, twice = (depth_loss(depth * s, target, alpha, 1.0).item() for s in (1.0, 7.0))
    assert once == pytest.approx(twice, rel=1e-3)


def test_silog_weighs_both_terms_by_alpha_once_and_skips_uncovered_pixels():
    depth, target = torch.tensor([2.0, 8.0, 50.0]), torch.tensor([1.0, 2.0, 1.0])
    covered = torch.tensor([1.0, 1.0, 0.005])
    a = torch.tensor([1.0, 0.1, 1.0])
    d = [math.log(2), math.log(4)]
    mean = (d[0] + 0.1 * d[1]) / 2
    expected = math.sqrt((d[0] ** 2 + 0.1 * d[1] ** 2) / 2 - 0.85 * mean**2 + 1e-6)
    assert depth_loss(depth, target, covered, 0.85, a).item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_depth_has_a_finite_gradient():
    depth = torch.tensor([3.0, 4.0], requires_grad=True)
    depth_loss(depth, torch.tensor([3.0, 4.0]), torch.ones(2)).backward()
    assert torch.isfinite(depth.grad).all()


def test_depth_net_loss_picks_the_bin_of_the_label():
    edges = torch.tensor([1.0, 2.0, 4.0, 8.0])
    logits = torch.full((1, 3, 1, 2), -20.0)
    logits[0, 1, 0, 1] = 20.0  # cell (row 0, column 1) is sure of [2, 4)
    cell = torch.tensor([[0, 0, 1], [0, 0, 1]])
    right = depth_net_loss(logits, cell, torch.tensor([2.0, 3.9]), edges)
    wrong = depth_net_loss(logits, cell, torch.tensor([4.0, 1.5]), edges)
    assert right.item() == pytest.approx(0, abs=1e-5) and wrong.item() == pytest.approx(40, rel=1e-3)
    assert depth_net_loss(logits, cell, torch.tensor([0.5, 9.0]), edges).item() == 0


def test_drift_sees_a_common_shift_and_not_a_symmetric_spread():
    centers = torch.zeros(2, 3)
    spread = torch.tensor([[0.4, 0, 0], [-0.4, 0, 0]])
    assert offset_drift_loss(centers + spread, centers, 0.4).item() == pytest.approx(0)
    assert offset_drift_loss(centers + 0.4, centers, 0.4).item() == pytest.approx(3)


def test_dynamic_weights():
    dynamic = torch.tensor([False, True])
    assert dynamic_weights(torch.tensor([0, 1, 255]), dynamic, 0.1).tolist() == pytest.approx([1.0, 0.1, 1.0])
