"""The report of ``make bench``; the benchmarks' own results are tested with what they measure."""

import contextlib
import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
from small import SmallData, small_model, small_training

from gsrender_core import ray_compensation, splatting
from gsrender_core.bench import heads
from gsrender_core.bench.__main__ import PARTS, TARGETS, Target, machine, run_part, table
from gsrender_core.bench.costs import CountedCosts
from gsrender_core.bench.networks import NETWORKS, bench_networks
from gsrender_core.bench.render import CASES
from gsrender_core.bench.runtimes import stage_costs
from gsrender_core.bench.scaling import RENDER_BY_GAUSSIANS, RENDER_BY_PIXELS
from gsrender_core.bench.training import NEAR, STEP, references
from gsrender_core.config import HeadConfig, load_train_config
from gsrender_core.model import view_transformer
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.voxel_grid import VoxelGrid


def test_a_floor_and_a_ceiling():
    floor = Target("a", None, "ratio", 4.0, True, "x")
    assert [floor.check({"a": {"ratio": r}})["reached"] for r in (3.9, 4.0, 5.0)] == [False, True, True]
    ceiling = Target("a", "wanted", "ms", 100.0, False, "x")
    rows = [{"case": "another", "ms": 1.0}, {"case": "wanted", "ms": 101.0}]
    assert ceiling.check({"a": {"rows": rows}}) == {
        "target": "x", "measured": 101.0, "limit": "<= 100", "reached": False,
    }  # fmt: skip
    assert ceiling.check({"a": {"not_available": "why"}})["reached"] is None
    assert ceiling.check({})["reached"] is None


def test_targets_name_what_the_parts_measure():
    measured = {
        "render": {"rows": [{"case": case.name, "ratio": 5.0} for case in CASES]},
        "heads": {"rows": [{"case": heads.PAPER_RAYS + end, "to_gaussian": 20.0} for end in ("", ", in torch")]},
        "training": {"rows": [{"case": STEP, "ratio": 3.0}]},
        "ray_iou": {"rows": [{"case": "RayIoU", "numba_ms": 50.0}]},
        "runtimes": {"ratio": 3.0, "peak_memory_mb": 900.0, "prediction_ms": 150.0},
        "scaling": {
            "rows": [{"case": case, "exponent": 0.8} for case in (RENDER_BY_GAUSSIANS, RENDER_BY_PIXELS)],
        },
        "networks": {"rows": [{"case": f"{name}, graph", "ms": 1.5} for name in NETWORKS]},
        "world": {"rows": [{"case": "keyframe", "ms": 400.0}]},
        "markers": {"ratio": 25.0},
        "outputs": {"total_ms": 8.0},
        "inputs": {"ahead_ms": 8.0, "ratio": 3.0},
        "bags": {"keyframes_x": 6.0, "unseen_x": 6.0},
    }
    assert all(target.check(measured)["reached"] for target in TARGETS)
    assert {target.part for target in TARGETS} == set(PARTS)
    largest = heads.CASES[-1]
    names = {f"{largest.name}, {largest.pixels} pixels, {name}" for name in heads._variants(largest, quick=False)}
    assert names >= {heads.PAPER_RAYS, f"{heads.PAPER_RAYS}, in torch"}
    assert CASES[0].grid_shape == (100, 100, 16) and CASES[0].pixels == 20_000 and CASES[0].with_torch


def test_core_parts_exist():
    for module, function in PARTS.values():
        if module.startswith("gsrender_core."):
            assert callable(getattr(importlib.import_module(module), function))


def test_heads_are_compared_on_the_same_scene_and_pixels():
    case = heads.HeadsCase("tiny", VoxelGrid((-3.2, -3.2, -1.0), 0.4, (16, 16, 8)), 4, 8, 40)
    gaussian = HeadConfig(hidden=8)
    nerf = dataclasses.replace(gaussian, kind="nerf", nerf_step_m=0.1)
    variants = {"g": heads.Variant(gaussian), "n": heads.Variant(nerf), "t": heads.Variant(nerf, backend="torch")}
    results = heads.time_variants(case, variants, 2)
    assert all(0 < r["best_ms"] <= r["ms"] and r["cpu_ms"] > 0 for r in results.values())
    assert 0 < results["g"]["gaussians"] <= 2048 and results["n"]["samples"] == results["t"]["samples"] > 5
    view = heads.make_view(case, torch.device("cpu"))
    opacity = []
    gradients = {}
    for name, variant in variants.items():
        step = heads._Step(case, view, variant)
        opacity.append(step.model.head.opacity_and_logits(step.rows.reshape(-1, 4))[0].detach())
        step()
        gradients[name] = step.rows.grad
    torch.testing.assert_close(gradients["n"], gradients["t"], rtol=1e-3, atol=1e-6)
    assert gradients["g"].any() and gradients["n"].any()
    torch.testing.assert_close(*opacity[:2], rtol=1e-2, atol=1e-2)
    assert (opacity[0].min(), opacity[0].max()) == pytest.approx((-6.0, 2.5), abs=0.01)


def test_a_step_by_references_is_the_same_step():
    config = small_training(pixels=200, render_cameras=2)
    torch.manual_seed(0)
    model = GSRender(config.model, load_pretrained=False)
    torch.nn.init.normal_(model.head.output.weight)
    objective = Objective(config, model, TrainingFrames(SmallData(), model, torch.device("cpu"), 0.0, 0.1))
    losses, kernels = [], (splatting.visible_voxels, ray_compensation.sample_rows, view_transformer.splat_points)
    for ways in (contextlib.nullcontext, references):
        model.zero_grad()
        torch.manual_seed(1)
        with ways():
            used = splatting.visible_voxels, ray_compensation.sample_rows, view_transformer.splat_points
            terms = objective(1)
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    assert not set(used) & set(kernels), "the references were not used"
    assert losses[0] == pytest.approx(losses[1], rel=NEAR, abs=1e-4) and "adj_semantic" in losses[0]
    assert (splatting.visible_voxels, ray_compensation.sample_rows, view_transformer.splat_points) == kernels


def test_a_part_runs_in_its_own_process_and_says_why_it_cannot():
    outcome = run_part(("json", "loads"), {"s": '{"answer": 42}'})
    assert outcome["answer"] == 42 and 1 < outcome["peak_memory_mb"] < 10_000 and outcome["seconds"] > 0
    missing = run_part(("gsrender_core.bench.no_such_part", "bench"), {"quick": True})
    assert "No module named 'gsrender_core.bench.no_such_part'" in missing["not_available"]


def test_table_shows_everything():
    parts = {
        "render": {"seed": 3, "rows": [{"case": "some case", "ms": 1.23456, "ratio": None}]},
        "markers": {"not_available": "No module named 'rclpy'"},
    }
    targets = [Target("render", None, "ms", 1.0, False, "a target").check(parts)]
    text = table({"machine": machine(), "parts": parts, "targets": targets})
    assert "markers  not available: No module named 'rclpy'" in text
    assert "seed 3" in text and "ms 1.235  ratio -" in text
    assert "MISSED" in text and "torch " in text


def test_operations_are_those_of_the_layers():
    """By hand for the encoder's parts that depend on one number: a wider head costs its own product more."""
    counts = []
    for hidden in (8, 16):
        model = GSRender(small_model(head=HeadConfig(hidden=hidden)), load_pretrained=False).eval()
        counts.append(stage_costs(model, SmallData().frame(0)))
    voxels = 16 * 16 * 8
    more = 2 * voxels * (6 * 8 + 8)  # per voxel: 6 features to 8 more hidden units, these to one opacity
    assert counts[1]["encode"].gflop - counts[0]["encode"].gflop == pytest.approx(more / 1e9, rel=1e-6)
    # Hidden units are written and read once, and there are more weights: 6 x 8 and 8 in, 8 out.
    more = 4 * (2 * 8 * voxels + 6 * 8 + 8 + 8)
    assert counts[1]["encode"].mbyte - counts[0]["encode"].mbyte == pytest.approx(more / 1e6, rel=1e-6)
    assert counts[0]["see"] == counts[1]["see"] and counts[0]["see"].gflop > 0 and counts[0]["see"].mbyte > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_costs_are_counted_in_every_mode(mode):
    conv, linear = torch.nn.Conv2d(3, 5, 3, bias=False), torch.nn.Linear(7, 11, bias=False)
    with mode(), CountedCosts() as costs:
        conv(torch.zeros(1, 3, 10, 8)), linear(torch.zeros(2, 13, 7))
    assert costs.cost.gflop * 1e9 == pytest.approx(2 * (8 * 6 * 5 * 3 * 9 + 2 * 13 * 7 * 11))
    numbers = (3 * 10 * 8 + 3 * 5 * 9 + 5 * 8 * 6) + (2 * 13 * 7 + 7 * 11 + 2 * 13 * 11)
    assert costs.cost.mbyte * 1e6 == pytest.approx(4 * numbers)


def test_networks_of_gpu_size_are_refused_on_a_cpu():
    with pytest.raises(RuntimeError, match="no CUDA device"):
        bench_networks(device="cpu")


def test_networks_of_gpu_size_are_those_of_the_configurations():
    configs = Path(__file__).parents[2] / "config"
    for name, file in (("ResNet-50 256x704", "realtime_resnet50"), ("Swin-B 512x1408, the paper's", "paper_swin_base")):
        shipped = load_train_config(configs / f"{file}.yaml").model
        random_weights = dataclasses.replace(shipped.backbone, pretrained=False)
        assert NETWORKS[name] == dataclasses.replace(shipped, backbone=random_weights)
