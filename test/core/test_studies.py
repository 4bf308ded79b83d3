import dataclasses
import json
import math

import pytest
import yaml
from small import small_model, small_training

from gsrender_core import ablate
from gsrender_core.ablate import Laboratory, run_study
from gsrender_core.config import TrainConfig, to_dict
from gsrender_core.studies import STUDIES, Run, Study, Variant, laboratory, plan
from gsrender_core.study_table import SCORES_VERSION, Spread, at_occupancy, differences, markdown, scores_of, tabulate
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.world import generate_world


def flat(values: dict, prefix: str = "") -> dict:
    result = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("base", [laboratory(), TrainConfig()], ids=["laboratory", "full"])
def test_variants_change_what_they_say_and_nothing_else(name, base):
    before = flat(to_dict(base))
    for variant in STUDIES[name].variants:
        after = flat(to_dict(variant.apply(base)))
        changed = {key for key in after if after[key] != before[key]} - {"steps"}
        assert changed <= set(variant.changes), variant.name
        for key, value in variant.changes.items():
            assert after[key] == value, (variant.name, key)
        assert after["steps"] == round(base.steps * variant.steps_factor)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("base", [laboratory(), TrainConfig()], ids=["laboratory", "full"])
def test_names_and_configurations_are_unique_within_a_study(name, base):
    runs = [run for run in plan(STUDIES[name], base, 1) if "scales start" not in run.variant]  # where others start
    assert len({run.variant for run in runs}) == len(runs)
    assert len({run.digest for run in runs}) == len(runs)


def test_a_variant_with_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="no key 'loss.omgea'"):
        Variant("typo", {"loss.omgea": 1.0}).apply(laboratory())


def test_equal_configurations_share_a_folder_across_names_and_seeds_do_not(tmp_path):
    config = laboratory()
    first, same = Run("a", config), Run("b", config)
    other_seed = Run("a", dataclasses.replace(config, seed=1))
    assert first.digest == same.digest == other_seed.digest
    assert first.digest != Run("a", dataclasses.replace(config, pixels=config.pixels + 1)).digest
    first.folder(tmp_path).mkdir()
    assert same.folder(tmp_path) == first.folder(tmp_path) != other_seed.folder(tmp_path)


def test_a_plan_goes_seed_by_seed():
    study = Study("", "", (Variant("a"), Variant("b", {"pixels": 5})))
    assert [(r.variant, r.config.seed) for r in plan(study, laboratory(), 2)] == [
        ("a", 0), ("b", 0), ("a", 1), ("b", 1),
    ]  # fmt: skip


def test_spread():
    spread = Spread.of([0.1, None, 0.3, math.nan])
    assert (spread.mean, spread.n) == (pytest.approx(0.2), 2)
    assert spread.sd == pytest.approx(math.sqrt(0.02))
    assert spread.text(100, 1) == "20.0 ± 14.1"
    assert Spread.of([0.25]).text(100, 1, signed=True) == "+25.0"
    assert Spread.of([]).text(1, 1) == "-"


def scores(rayiou: dict, occupied: dict, tau: float = 0.2) -> dict:
    curve = {
        str(t): {"rayiou": rayiou[t], "miou": 0.1, "occupied": occupied[t], "extra_runs": occupied[t] / 1000}
        for t in rayiou
    }
    return {"voxel": curve, "splat": None, "truth": {"occupied": 100.0}, "constant": {"rayiou": 0.0}, "tau": tau}


def test_differences_are_those_of_the_second_run_against_the_first():
    first = scores({0.1: 0.1, 0.2: 0.3}, {0.1: 200.0, 0.2: 50.0})
    second = scores({0.1: 0.2, 0.2: 0.35}, {0.1: 200.0, 0.2: 50.0}, tau=0.1)
    found = differences(first, second)
    assert found["rayiou"] == pytest.approx(0.2 - 0.3)  # each at its own tau
    assert found["rayiou_best"] == pytest.approx(0.05)
    assert 0.05 < found["rayiou_occupancy"] < 0.1
    assert found["extra_tau"] == found["extra_occupancy"] == pytest.approx(0.0)
    assert math.isnan(found["rayiou_splat"])


def test_a_table_pairs_runs_of_one_seed(tmp_path):
    study = Study("?", "!", (Variant("a"), Variant("b", {"pixels": 5})))
    for run in plan(study, laboratory(), 3):
        value = {("a", 0): 0.1, ("a", 1): 0.3, ("b", 1): 0.35, ("b", 2): 0.9}.get((run.variant, run.config.seed))
        if value is not None:
            folder = run.folder(tmp_path / "runs")
            folder.mkdir(parents=True)
            text = {"version": SCORES_VERSION, **scores({0.2: value}, {0.2: 100.0})}
            (folder / "scores.json").write_text(json.dumps(text))
    a, b = tabulate(study, laboratory(), 3, tmp_path)["rows"]
    assert a["spread"]["rayiou"]["n"] == b["spread"]["rayiou"]["n"] == 2
    assert b["difference"]["rayiou"]["n"] == 1 and b["difference"]["rayiou"]["mean"] == pytest.approx(0.05)


def test_a_run_made_with_other_defaults_is_not_taken_for_the_same(tmp_path):
    run = Run("a", laboratory())
    run.folder(tmp_path).mkdir()
    stored = to_dict(run.config)
    stored["loss"]["object_weight"] += 1
    del stored["pixels"]  # a key that came later
    (run.folder(tmp_path) / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ValueError, match="made with other defaults of loss"):
        run.folder(tmp_path)


def test_figures_at_an_occupancy_lie_between_the_thresholds():
    points = {"0.1": (300.0, 3.0), "0.2": (200.0, 5.0), "0.5": (100.0, 6.0)}
    curve = {tau: {"occupied": occupied, "x": x} for tau, (occupied, x) in points.items()}
    assert at_occupancy(curve, 250, "x") == pytest.approx(4.0)
    assert at_occupancy(curve, 125, "x") == pytest.approx(5.75)
    assert math.isnan(at_occupancy(curve, 301, "x")) and math.isnan(at_occupancy(curve, 99, "x"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    generate_world(out, scenes=3, frames=2, seed=5, image_size=(176, 64), sweeps=False, workers=1)
    return out


@pytest.fixture
def tiny_study(monkeypatch):
    variants = (Variant("rc off", {"compensation": "none"}), Variant("rc on"))
    monkeypatch.setitem(STUDIES, "tiny", Study("Does it run?", "nowhere", variants))
    model = small_model(grid=VoxelGrid((-6.4, -6.4, -1.0), 0.4, (32, 32, 16)), image_size=(176, 64))
    return small_training(model=model, steps=2, validation_scenes=1, validation_frames=1)


def test_a_study_runs_to_a_table_and_is_not_run_twice(world, tiny_study, tmp_path):
    place = Laboratory(world, world, tmp_path / "out", "cpu", threads=1, every=1)
    assert run_study("tiny", tiny_study, place, seeds=2, workers=1) == 0
    table = json.loads((place.out / "tiny.json").read_text())
    assert [row["variant"] for row in table["rows"]] == ["rc off", "rc on"]
    for row in table["rows"]:
        assert set(row["per_seed"]) == {"0", "1"}
        assert 0 <= row["spread"]["rayiou"]["mean"] <= 1 and row["spread"]["rayiou"]["n"] == 2
    text = (place.out / "tiny.md").read_text()
    assert "Does it run?" in text and "| rc on | 2 | 2 |" in text
    assert (place.out / "tiny.png").is_file()

    written = {path: path.stat().st_mtime_ns for path in place.out.glob("runs/*/*")}
    assert run_study("tiny", tiny_study, place, seeds=2, workers=1) == 0
    assert written == {path: path.stat().st_mtime_ns for path in place.out.glob("runs/*/*")}

    with pytest.raises(ValueError, match="choose another --out"):
        run_study("tiny", tiny_study, dataclasses.replace(place, every=2), seeds=1, workers=1)
    with pytest.raises(ValueError, match="no variant 'rc onn'"):
        run_study("tiny", tiny_study, place, 1, 1, ["rc onn"])


def test_a_run_that_fails_is_named_and_the_others_go_on(world, tiny_study, tmp_path, monkeypatch, caplog):
    # A view transformer that does not exist is found only when the network is built.
    broken = Variant("broken", {"model.view.kind": "none"})
    monkeypatch.setitem(STUDIES, "tiny", Study("", "", (broken, Variant("rc on"))))
    place = Laboratory(world, world, tmp_path / "out", "cpu", threads=1, every=1)
    assert run_study("tiny", tiny_study, place, seeds=1, workers=1) == 1
    assert "broken" in caplog.text and "view.kind" in caplog.text
    rows = json.loads((place.out / "tiny.json").read_text())["rows"]
    assert rows[0]["per_seed"] == {} and set(rows[1]["per_seed"]) == {"0"}


def test_old_scores_are_computed_again(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"version": SCORES_VERSION - 1}))
    assert scores_of(tmp_path) is None
    assert ablate.scores_of is scores_of


def test_a_table_of_an_unfinished_study_says_so(tmp_path):
    study = Study("?", "!", (Variant("a"), Variant("b", {"pixels": 5})))
    table = tabulate(study, laboratory(), 3, tmp_path)
    assert "| a | 0 | 500 | - |" in markdown("x", table)
