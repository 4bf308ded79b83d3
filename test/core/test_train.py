import copy
import dataclasses
import json

import pytest
import torch
from small import GRID, SmallData, small_model, small_training

from gsrender_core.checkpoint import load_checkpoint, read_header, save_checkpoint
from gsrender_core.config import BackboneConfig, DepthConfig, HeadConfig, TrainConfig
from gsrender_core.gradient_step import make_optimizer
from gsrender_core.model.gsrender import GSRender
from gsrender_core.predictor import Predictor, resolve_device
from gsrender_core.run_folder import readable
from gsrender_core.train import Trainer, starting_config


def test_training_lowers_the_loss_and_leaves_a_checkpoint_that_predicts(tmp_path):
    config, data = small_training(steps=40, learning_rate=5e-3, bev_flip=False, adjacent=()), SmallData()
    Trainer(config, data, tmp_path / "run", "cpu").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 40 and lines[-1]["depth_net"] < lines[0]["depth_net"]
    predictor = Predictor.load(tmp_path / "run" / "last.safetensors", "cpu")
    grid = predictor(data.frame(1))
    assert grid.semantics.shape == GRID.shape and grid.stamp_ns == data.frame(1).stamp_ns
    assert predictor.info["steps"] == 40


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    data = SmallData()
    whole = small_training(steps=7, checkpoint_every=7)  # every frame is visited before and after the break
    Trainer(whole, data, tmp_path / "whole", "cpu").run()
    # The schedule is the whole run's, so the steps up to the break are walked by hand.
    broken = Trainer(whole, data, tmp_path / "broken", "cpu")
    for _ in range(4):
        broken._train_step()
        broken.step += 1
    (tmp_path / "broken").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        Trainer(whole, data, tmp_path / "broken", "cpu").run(resume=True)
    broken._save(tmp_path / "broken" / "resume.pt")
    (tmp_path / "broken" / "log.jsonl").touch()
    with pytest.raises(FileExistsError, match="--resume"):
        Trainer(whole, data, tmp_path / "broken", "cpu").run()
    Trainer(whole, data, tmp_path / "broken", "cpu").run(resume=True)
    a = load_checkpoint(tmp_path / "whole" / "last.safetensors").model.state_dict()
    b = load_checkpoint(tmp_path / "broken" / "last.safetensors").model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    first = Trainer(small_training(steps=2), SmallData(), tmp_path, "cpu")
    first.skipped, first.started_from = {1}, {"checkpoint": "a", "steps": 3}
    first._save(tmp_path / "resume.pt")
    data = SmallData()
    data.scene_names = ("b",)
    with pytest.raises(ValueError, match="other data: its training scenes differ"):
        Trainer(small_training(steps=2), data, tmp_path, "cpu").run(resume=True)
    again, state = Trainer(small_training(steps=2), SmallData(), tmp_path, "cpu"), torch.load(tmp_path / "resume.pt")
    again._restore(state)
    assert again.skipped == {1} and again.started_from == {"checkpoint": "a", "steps": 3}
    for name in ("data", "skipped", "started_from"):  # of an earlier version
        del state[name]
    again._restore(state)


def test_checkpoints_round_trip_and_refuse_what_is_not_theirs(tmp_path):
    torch.manual_seed(0)
    model = GSRender(small_training().model).eval()
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, model, {"note": 1}, torch.float16)
    loaded = load_checkpoint(path)
    assert loaded.info == {"note": 1} and loaded.model.config == model.config
    assert read_header(path)["format"] == 1
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load_checkpoint(cut)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, cut)
    with pytest.raises(ValueError, match="no GSRender configuration"):
        load_checkpoint(cut)
    header = {"format": 1, "model": {"tau": 0.1}, "info": {}}
    save_file({"a": torch.zeros(1)}, cut, metadata={"gsrender": json.dumps(header)})
    with pytest.raises(ValueError, match="lacks the weight"):
        load_checkpoint(cut)


def test_predictor_refuses_frames_of_another_size(tmp_path):
    predictor = Predictor(GSRender(small_training().model), device="cpu")
    frame = SmallData().frame(0)
    wrong = dataclasses.replace(frame, images=frame.images[..., :64], labels=None)
    with pytest.raises(ValueError, match="64x64 images, the network takes 96x64"):
        predictor(wrong)
    predictor.warm_up(4)
    with pytest.raises(ValueError, match="unknown precision"):
        Predictor(GSRender(small_training().model), device="cpu", precision="half")
    with pytest.raises(ValueError, match="unknown device"):
        Predictor(GSRender(small_training().model), device="tpu9")


def test_a_gpu_that_is_not_there_is_refused_by_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="'cuda:2' asked for, but there are 2 CUDA GPUs"):
        resolve_device("cuda:2")


def test_frames_that_cannot_be_read_are_skipped_counted_and_named(tmp_path, caplog):
    class Broken(SmallData):
        bad = (1,)

        def frame(self, i, labels=True):
            if i in self.bad:
                raise ValueError(f"sweep {i} is cut off")
            return super().frame(i, labels)

    config = small_training(steps=3, adjacent=(), ray_adjacent=())
    Trainer(config, Broken(), tmp_path / "run", "cpu").run()
    assert "sweep 1 is cut off" in caplog.text
    assert read_header(tmp_path / "run" / "last.safetensors")["info"]["frames"] == 2
    nothing = Broken()
    nothing.bad = (0, 1, 2)
    with pytest.raises(ValueError, match="not one of 3 frames is usable"):
        Trainer(config, nothing, tmp_path / "none", "cpu").run()


def test_checkpoints_with_broken_numbers_are_neither_written_nor_read(tmp_path):
    model = GSRender(small_training().model)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, model, {})
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    weights["head.output.bias"][0] = float("nan")
    save_file(weights, path, metadata=metadata)
    with pytest.raises(ValueError, match="'head.output.bias' holds NaN"):
        load_checkpoint(path)
    with torch.no_grad():
        model.head.output.bias[0] = float("inf")
    with pytest.raises(ValueError, match="is not finite"):
        save_checkpoint(path, model, {})


def test_foreign_resume_files_and_finished_runs_are_named(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"a": 1}, run / "resume.pt")
    with pytest.raises(ValueError, match="was not written by"):
        Trainer(small_training(), SmallData(), run, "cpu").run(resume=True)
    with pytest.raises(FileExistsError, match="is not empty"):
        Trainer(small_training(), SmallData(), run, "cpu").run()
    Trainer(small_training(steps=2), SmallData(), tmp_path / "done", "cpu").run()
    with pytest.raises(ValueError, match="at step 2 of 2"):
        Trainer(small_training(steps=2), SmallData(), tmp_path / "done", "cpu").run(resume=True)


def test_the_running_mean_of_weights_equals_the_slow_loop(tmp_path):
    trainer = Trainer(small_training(steps=9, ema_decay=0.9), SmallData(), tmp_path, "cpu")
    expected = copy.deepcopy(trainer.ema.state_dict())
    for _ in range(3):
        trainer._train_step()
        decay = min(0.9, (1 + trainer.step) / (10 + trainer.step))
        for name, value in trainer.model.state_dict().items():
            if value.is_floating_point():
                expected[name] = expected[name] + (1 - decay) * (value - expected[name])
            else:
                expected[name] = value.clone()
        trainer.step += 1
    mean = trainer.ema.state_dict()
    assert mean.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(mean[name], value, rtol=1e-6, atol=1e-7)
    assert not torch.equal(mean["head.output.bias"], trainer.model.state_dict()["head.output.bias"])
    moved = [n for n in mean if "running_mean" in n and not n.startswith("backbone.")]
    assert moved and all(mean[n].abs().sum() > 0 for n in moved)


def test_the_optimizer_equals_adamw_as_written_down(tmp_path):
    config = small_training(learning_rate=0.01, weight_decay=0.1)
    torch.manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(4))]
    expected = [w.detach().double() for w in weights]
    m, v = [torch.zeros_like(w) for w in expected], [torch.zeros_like(w) for w in expected]
    optimizer = make_optimizer(config, weights)
    for t in range(1, 6):
        for n, w in enumerate(weights):
            w.grad = torch.randn_like(w)
            g = w.grad.double()
            m[n], v[n] = 0.9 * m[n] + 0.1 * g, 0.999 * v[n] + 0.001 * g * g
            step = (m[n] / (1 - 0.9**t)) / ((v[n] / (1 - 0.999**t)).sqrt() + 1e-8)
            expected[n] = expected[n] * (1 - 0.01 * 0.1) - 0.01 * step
        optimizer.step()
    for w, e in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.detach().double(), e, rtol=1e-5, atol=1e-6)


def test_batch_norms_learn_until_they_are_frozen(tmp_path):
    trainer = Trainer(small_training(steps=4, freeze_norm_at=0.5), SmallData(), tmp_path, "cpu")
    statistics, weights = [], []
    for _ in range(4):
        trainer._train_step()
        trainer.step += 1
        state = trainer.model.state_dict()
        statistics.append(torch.cat([v.flatten() for k, v in state.items() if "running_mean" in k]))
        weights.append(state["head.output.bias"].clone())
    assert not torch.equal(statistics[0], statistics[1]) and torch.equal(statistics[1], statistics[3])
    assert not torch.equal(weights[1], weights[3])


def test_a_later_run_shares_the_cached_frames_where_they_are_the_same(tmp_path):
    class Counted(SmallData):
        read = 0

        def frame(self, i, labels=True):
            self.read += 1
            return super().frame(i, labels)

    config, data = small_training(steps=3, rare_boost=0.5), Counted()
    first = Trainer(config, data, tmp_path / "1", "cpu")
    first.run()
    assert data.read > 0
    changed = dataclasses.replace(config, rare_boost=1.0)
    alone = Trainer(changed, data, tmp_path / "alone", "cpu")
    alone.run()
    data.read = 0
    sharing = Trainer(changed, data, tmp_path / "2", "cpu", frames=first.frames)
    sharing.run()
    assert data.read == 0
    assert all(torch.equal(a, b) for a, b in zip(alone.trained, sharing.trained, strict=True))
    assert Trainer(config, data, tmp_path / "3", "cpu", frames=sharing.frames).frames.labels(0).rare_boost == 0.5
    # Random backbone weights come from the seed: another seed is another backbone.
    other = Trainer(dataclasses.replace(config, seed=1), data, tmp_path / "4", "cpu", frames=first.frames)
    assert other.frames.cache is not first.frames.cache
    other = Trainer(config, Counted(), tmp_path / "5", "cpu", frames=first.frames)
    assert other.frames.cache is not first.frames.cache


def test_a_run_can_begin_with_the_weights_of_a_checkpoint(tmp_path):
    first = Trainer(small_training(steps=2), SmallData(), tmp_path / "first", "cpu")
    made = first.run()
    second = Trainer(small_training(steps=1, seed=5), SmallData(), tmp_path / "second", "cpu")
    second.start_from(made)
    for name, value in first.ema.state_dict().items():  # checkpoints hold half precision
        for model in (second.model, second.ema):
            assert torch.allclose(model.state_dict()[name].float(), value.float(), atol=2e-3, rtol=2e-3), name
    info = load_checkpoint(second.run()).info
    assert info["started_from"] == {"checkpoint": made.name, "steps": 2} and info["steps"] == 1
    config = small_training(model=small_model(depth=DepthConfig(0.5, 8.0, 13)))
    other = Trainer(config, SmallData(), tmp_path / "other", "cpu")
    with pytest.raises(ValueError, match="another network: model.depth differ"):
        other.start_from(made)


def test_weights_serve_another_recipe_of_the_same_network(tmp_path, caplog):
    made = Trainer(small_training(steps=1), SmallData(), tmp_path / "first", "cpu").run()
    model = small_model(head=HeadConfig(base_scale_m=0.12), backbone=BackboneConfig(pretrained=False, frozen=False))
    Trainer(small_training(model=model), SmallData(), tmp_path / "second", "cpu").start_from(made)
    assert "another model.head" in caplog.text and "another model.backbone" in caplog.text


def test_a_run_that_stopped_before_its_first_checkpoint_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        Trainer(small_training(), SmallData(), out, "cpu").run(resume=True)
    (out / "config.yaml").write_text("steps: 2")
    (out / "log.jsonl").write_text('{"step": 1}')
    Trainer(small_training(steps=2), SmallData(), out, "cpu").run(resume=True)
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()][-1] == 2


def test_a_broken_validation_frame_is_named_and_left_out(caplog):
    class Broken(SmallData):
        def frame(self, i, labels=True):
            if i == 1:
                raise ValueError("image of frame 1 is cut off")
            return super().frame(i)

    assert readable(Broken(), [0, 1, 2]) == [0, 2]
    assert "validation frame 1 is left out: image of frame 1 is cut off" in caplog.text


def test_a_run_without_a_configuration_takes_the_network_of_the_checkpoint_it_begins_with(tmp_path):
    assert starting_config("default") == starting_config("") == TrainConfig()
    model = GSRender(small_model())
    save_checkpoint(tmp_path / "a.safetensors", model, {})
    assert starting_config("", tmp_path / "a.safetensors") == TrainConfig(model=model.config)
    (tmp_path / "mine.yaml").write_text("steps: 7\n")
    assert starting_config(str(tmp_path / "mine.yaml"), tmp_path / "a.safetensors") == TrainConfig(steps=7)


def test_bfloat16_is_used_only_where_the_processor_has_it(tmp_path, monkeypatch, caplog):
    config = small_training(steps=1, bf16=True)
    for has in (False, True):
        monkeypatch.setattr("gsrender_core.train.multiplies_bfloat16", lambda device, has=has: has)
        caplog.clear()
        trainer = Trainer(config, SmallData(), tmp_path / "run", "cpu")
        assert trainer.config.bf16 is has
        assert ("training in float32 is faster" in caplog.text) is not has
