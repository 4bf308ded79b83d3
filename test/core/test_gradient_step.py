import copy

import pytest
import torch
from small import SmallData, small_training

from gsrender_core.distributed import Group
from gsrender_core.gradient_step import GradientStep, make_optimizer
from gsrender_core.model.gsrender import GSRender
from gsrender_core.train import MAX_BROKEN_STEPS, Trainer, mean_terms


class Quadratic:
    """Stands in for the objective: half the squared distance of one bias to a number of each frame."""

    def __init__(self, model, targets):
        self.model, self.targets = model, targets

    def __call__(self, i, render):
        target = self.targets[i]
        if isinstance(target, Exception):
            raise target
        return {"distance": 0.5 * (self.model.head.output.bias - target).square().sum(), "_drawn": torch.rand(())}


def never():
    return False


def gradient_step(targets, **changes):
    config = small_training(grad_clip=1e6, weight_decay=0.0, **changes)
    torch.manual_seed(0)
    model = GSRender(config.model).train()
    return GradientStep(config, model, Quadratic(model, targets), Group("cpu"))


def test_the_gradient_is_the_mean_over_the_frames_of_the_batch():
    step = gradient_step([1.0, 2.0, 6.0], batch=3)
    before = step.model.head.output.bias.detach().clone()
    report = step(0, 0.01, [(0, 0), (1, 1), (2, 2)], never)
    assert report.usable == 3 and report.stepped
    torch.testing.assert_close(step.model.head.output.bias.grad, before - 3.0)
    # Adam's first step is the rate times the sign of the gradient.
    torch.testing.assert_close(step.model.head.output.bias.detach() - before, torch.full_like(before, 0.01))


def test_an_unreadable_frame_leaves_the_mean_over_the_others():
    step = gradient_step([1.0, ValueError("cut off"), 6.0], batch=3)
    before = step.model.head.output.bias.detach().clone()
    report = step(0, 0.01, [(0, 0), (1, 1), (2, 2)], never)
    assert (report.usable, report.dropped, report.broken) == (2, 1, 0) and str(report.unreadable[1]) == "cut off"
    torch.testing.assert_close(step.model.head.output.bias.grad, before - 3.5)
    after = step.model.head.output.bias.detach().clone()
    nothing = step(1, 0.01, [(3, 1), (4, 1), (5, 1)], never)
    assert nothing.usable == 0 and not nothing.stepped and torch.equal(step.model.head.output.bias, after)


def test_draws_depend_on_their_number_not_on_step_or_place():
    drawn = {}
    for batch in (1, 2):
        step = gradient_step([0.0, 0.0], batch=batch)
        for first in range(0, 4, batch):
            report = step(first // batch, 0.01, [(first + n, n) for n in range(batch)], never)
            drawn[batch] = drawn.get(batch, []) + [terms["_drawn"] for terms in report.terms.values()]
    assert drawn[1] == drawn[2] and len(set(drawn[1])) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(bad):
    step = gradient_step([0.0, bad], batch=2)
    before = copy.deepcopy(step.state_dict())
    report = step(0, 0.01, [(0, 0), (1, 1)], never)
    assert (report.broken, report.stepped, report.not_finite) == (1, False, [(1, "distance")])
    after = step.state_dict()
    for part in ("model", "ema"):
        assert all(torch.equal(before[part][k], after[part][k]) for k in before[part])
    assert not after["optimizer"]["state"]


def test_adam_with_an_l2_penalty_and_adamw_differ_as_they_should():
    results = {}
    for name in ("adam", "adamw"):
        weight = torch.nn.Parameter(torch.tensor([2.0]))
        optimizer = make_optimizer(small_training(optimizer=name, learning_rate=0.1, weight_decay=0.5), [weight])
        weight.grad = torch.tensor([-0.25])
        optimizer.step()
        results[name] = weight.item()
    # Adam's first step is the sign of gradient + penalty = -0.25 + 0.5 * 2; AdamW decays beside it.
    assert results == pytest.approx({"adam": 2.0 - 0.1, "adamw": 2.0 * (1 - 0.1 * 0.5) + 0.1}, rel=1e-5)
    with pytest.raises(ValueError, match="optimizer: 'sgd' is none of adamw, adam"):
        small_training(optimizer="sgd")


def test_running_statistics_are_the_mean_of_what_each_frame_alone_would_leave(tmp_path):
    def statistics(batch, draws):
        trainer = Trainer(small_training(batch=batch), SmallData(), tmp_path, "cpu")
        trainer.gradient(0, 0.01, draws, never)
        state = trainer.model.state_dict()
        return {k: v for k, v in state.items() if "running_" in k or "tracked" in k}

    first, second, both = statistics(1, [(0, 0)]), statistics(1, [(1, 1)]), statistics(2, [(0, 0), (1, 1)])
    assert any(not torch.equal(first[k], second[k]) for k in first)
    for name, value in both.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6)
        else:
            assert value == first[name] == second[name]


def test_broken_losses_are_named_and_counted_and_end_a_hopeless_run(tmp_path, caplog):
    config = small_training(steps=100, adjacent=(), ray_adjacent=())
    trainer = Trainer(config, SmallData(), tmp_path / "run", "cpu")
    compute = trainer.objective.__call__

    class OneBadFrame:
        def __call__(self, i, render):
            terms = compute(i, render)
            return terms | {"depth": terms["depth"] * float("nan")} if i == 1 or trainer.step >= 9 else terms

    trainer.gradient._frame_loss.objective = OneBadFrame()
    before = trainer.model.head.output.bias.detach().clone()
    with pytest.raises(ValueError, match=f"{MAX_BROKEN_STEPS} steps in a row without a finite loss, last depth of"):
        trainer.run()
    assert "NaN or infinite: depth of frame t1; step skipped, 1 so far" in caplog.text
    # One broken step in each of the three good epochs; the last of them may open the final row.
    assert trainer.broken - MAX_BROKEN_STEPS in (2, 3)
    weights = trainer.model.head.output.bias
    assert weights.isfinite().all() and not torch.equal(weights, before)


def test_means_of_terms_by_hand():
    frames = [{"a": 1.0, "_b": 2.0, "_n": float("nan")}, {"a": 3.0, "adj_a": 4.0, "_b": float("nan")}]
    means = mean_terms(frames)
    assert (means["a"], means["adj_a"], means["_b"]) == (2.0, 2.0, 2.0) and means["_n"] != means["_n"]


def test_frames_beside_a_broken_one_do_not_end_the_run(tmp_path):
    class Hole(SmallData):
        def frame(self, i, labels=True):
            if i == 1:
                raise ValueError("frame 1 is cut off")
            return self.frames[i]

    # Every frame fails now and then, with its neighbour, but not always: k is drawn anew at each visit.
    config = small_training(steps=12, adjacent=(1, -1, 2, -2), ray_adjacent=(), pixels=16, rays=16)
    trainer = Trainer(config, Hole(), tmp_path / "run", "cpu")
    trainer.run()
    assert trainer.step == 12 and trainer.skipped == {1}
