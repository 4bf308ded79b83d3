"""Logs of interrupted, resumed and odd runs are read; several runs are drawn over one another."""

import json
import logging

import numpy as np
import pytest

from gsrender_core.cli import main
from gsrender_core.pictures.curves import curves_picture, read_log, run_names, running_mean, values_of


def write(folder, *lines: str, end: str = "\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("\n".join(lines) + end)
    return folder


def rows(steps, **values):
    return [json.dumps({"step": s, "seconds": 1.0 * s, **values}) for s in steps]


def test_a_cut_last_line_is_left_out_without_a_word(tmp_path, caplog):
    folder = write(tmp_path / "a", *rows([1, 21]), '{"step": 41, "dep', end="")
    with caplog.at_level(logging.WARNING):
        assert [row["step"] for row in read_log(folder)] == [1, 21]
    assert caplog.text == ""


def test_broken_lines_are_counted(tmp_path, caplog):
    broken = ['{"step": 21, "de', "[1, 2]", "null", '{"seconds": 3}', '{"step": "x"}', '{"step": NaN}', "", "\x00\x00"]
    folder = write(tmp_path / "a", *rows([1]), *broken, *rows([41]))
    with caplog.at_level(logging.WARNING):
        assert [row["step"] for row in read_log(folder)] == [1, 41]
    assert "7 unreadable lines" in caplog.text and "line 2" in caplog.text
    with pytest.raises(FileNotFoundError, match="gsrender train"):
        read_log(tmp_path / "missing")
    assert read_log(write(tmp_path / "empty", "")) == []


def test_repeated_steps_of_a_resumed_run_replace_the_lost_ones(tmp_path):
    before = rows([1, 21, 41, 61, 81], depth=1.0)
    folder = write(tmp_path / "a", *before, *rows([41, 61], depth=2.0))
    steps, values = values_of(read_log(folder), "depth")
    assert steps.tolist() == [1, 21, 41, 61] and values.tolist() == [1, 1, 2, 2]


def test_rows_of_one_step_are_all_kept(tmp_path):
    lines = [*rows([1000], depth=1.0), '{"step": 1000, "watch": {"rayiou": 0.1}}', '{"step": 1000, "validation": {}}']
    assert len(read_log(write(tmp_path / "a", *lines))) == 3


def test_values_by_hand():
    log = [
        {"step": 1, "depth": 0.5},
        {"step": 21, "depth": float("nan"), "watch": {"rayiou": 0.1}},
        {"step": 41, "depth": None},
        {"step": 61, "depth": "high"},
        {"step": 61, "other": 3},
        {"step": 81, "depth": True, "watch": 7},
        {"step": 101, "validation": {"0.1": {"rayiou": 0.2, "miou": 0.5}, "0.4": {"rayiou": 0.3, "miou": 0.4}}},
        {"step": 121, "validation": {"0.1": {"rayiou": None}, "0.4": None}},
        {"step": 141, "validation": "broken"},
    ]
    steps, values = values_of(log, "depth")
    assert steps.tolist() == [1, 21, 41, 61, 81]
    np.testing.assert_array_equal(values, [0.5, np.nan, np.nan, np.nan, np.nan])
    assert [v.tolist() for v in values_of(log, "watch.rayiou")] == [[21], [0.1]]
    # At the threshold of the highest RayIoU.
    assert [v.tolist() for v in values_of(log, "validation.miou")] == [[101], [0.4]]
    assert [v.tolist() for v in values_of(log, "absent.key")] == [[], []]


def test_running_mean_by_hand_and_against_a_loop():
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0, np.nan]), 3), [1.5, 3, 4, 6])
    assert np.isnan(running_mean(np.full(4, np.nan), 3)).all()
    rng = np.random.default_rng()
    values = np.where(rng.random(60) < 0.2, np.nan, rng.normal(size=60))
    expected = [np.nanmean(values[max(0, n - 4) : n + 5]) for n in range(60)]
    np.testing.assert_allclose(running_mean(values, 9), expected, atol=1e-12)


def test_one_run_draws_every_panel_and_odd_runs_do_not_crash():
    rng = np.random.default_rng()
    log = [{"step": 20 * n + 1, "depth": float(rng.random()), "lr": 1e-3, "alpha": 0.5} for n in range(100)]
    log += [{"step": 2000, "watch": {"rayiou": 0.1, "over_tau": {"0.1": {"rayiou": 0.1}, "odd": {"rayiou": 0.2}}}}]
    full = curves_picture({"a": log})
    assert full.dtype == np.uint8 and full.shape == curves_picture({"a": []}).shape
    odd = [{"step": 5, "watch": None, "validation": {"x": {}}, "depth": float("inf"), "lr": -1.0}, {"step": 5}]
    assert curves_picture({"odd": odd}).shape == full.shape


def test_several_runs_with_different_keys_share_the_panels():
    log = [{"step": 20 * n + 1, "depth": 0.5 + n / 50} for n in range(20)]
    other = [{"step": 20 * n + 1, "ray_opacity": 0.5} for n in range(40)]
    both = curves_picture({"first": log, "second": other})
    alone = curves_picture({"first": log, "second": []})
    assert both.shape == alone.shape and (both != alone).any()
    assert curves_picture({f"run {n}": log for n in range(15)}).shape[1] == both.shape[1]


def test_names_tell_runs_apart(tmp_path):
    paths = [write(tmp_path / part / "run", *rows([1])) for part in ("x", "y")]
    assert run_names(paths) == {"x/run": paths[0], "y/run": paths[1]}
    assert run_names([paths[0] / "log.jsonl"]) == {"run": paths[0] / "log.jsonl"}
    with pytest.raises(ValueError, match="named twice"):
        run_names([paths[0], paths[0]])


def test_the_command_draws_a_file(tmp_path, capsys):
    runs = [str(write(tmp_path / name, *rows([1, 21], depth=0.5))) for name in "ab"]
    assert main(["curves", *runs, "--out", str(tmp_path / "sub" / "both.png")]) == 0
    assert (tmp_path / "sub" / "both.png").stat().st_size > 10_000
    assert main(["curves", str(tmp_path / "missing"), "--out", str(tmp_path / "x.png")]) == 1
    assert main(["curves", *runs, "--out", str(tmp_path / "x.jpg")]) == 1 and not (tmp_path / "x.jpg").exists()
