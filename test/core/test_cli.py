import json

import numpy as np
import pytest

from gsrender_core.cli import main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("world", "train", "eval", "predict", "to-bag", "score"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "none.safetensors", "--data", "nowhere"], "no checkpoint at none.safetensors"),
        (["train", "none.yaml", "--data", "nowhere", "--out", "run"], "none.yaml"),
        (["score", "--pred", "nowhere", "--gt", "nowhere"], "nowhere does not exist"),
        (["to-bag", "nowhere", "bag"], "nowhere"),
        (["world", "out", "--scenes", "0"], "scenes is 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(arguments, words, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert words in caplog.text and "Traceback" not in caplog.text


def test_score_writes_json(tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth = np.full((200, 200, 16), 17, np.uint8)
    truth[:, :, 2] = 11
    truth[120:130, 90:110, 2:8] = rng.integers(3, 5, (10, 20, 6))
    for folder in ("pred", "gt"):
        (tmp_path / folder).mkdir()
    np.savez_compressed(tmp_path / "pred" / "a.npz", semantics=truth)
    np.savez_compressed(tmp_path / "gt" / "a.npz", semantics=truth, ray_origins=np.array([[0.0, 0.0, 1.8]]))
    out = tmp_path / "scores" / "s.json"
    assert main(["score", "--pred", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt"), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["miou"] == 1.0 and result["rayiou"] == 1.0 and result["iou"]["bus"] == 1.0
    assert result["iou"]["truck"] is None


def test_image_size_is_checked(capsys):
    with pytest.raises(SystemExit):
        main(["world", "out", "--image-size", "wide"])
    assert "is not WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--workers", "--seeds", "--every", "--threads", "--steps"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_counts_of_a_study_are_checked_before_it_starts(option, value, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["ablate", "rc", "--data", "nowhere", "--out", str(tmp_path / "out"), option, value])
    assert f"argument {option}: '{value}' is not a whole number of at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
