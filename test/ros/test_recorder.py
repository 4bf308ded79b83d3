"""The recorder's refusals, and what it says of a recording without messages."""

import pytest
from ros_processes import own_domain

from gsrender_ros import recorder


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain(9)))
    monkeypatch.setattr(recorder, "StopSignal", lambda: False)  # pytest keeps its own handlers


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["odom"], "topic names must be absolute: write /odom instead of odom"),
        (["/odom", "--duration", "0"], "--duration is 0 s, must be positive"),
        (["/odom", "--duration", "nan"], "--duration is nan s, must be positive"),
        (["/odom", "--max-messages", "-2"], "--max-messages is -2, must be positive"),
    ],
)
def test_arguments_it_cannot_use(arguments, text, tmp_path, capsys):
    with pytest.raises(SystemExit) as wrong:
        recorder.main(["recorder", str(tmp_path / "bag"), *arguments])
    assert wrong.value.code == 2
    assert text in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "bag").exists()


def test_a_path_that_cannot_be_written_gives_one_line(tmp_path, caplog):
    (tmp_path / "file").write_text("precious")
    for bag in (tmp_path / "file" / "bag", tmp_path / "file" / "a" / "bag"):
        caplog.clear()
        assert recorder.main(["recorder", str(bag), "/odom", "--duration", "0.1"]) == 1
        (line,) = caplog.messages
        assert str(bag) in line or str(tmp_path / "file") in line
        assert "\n" not in line
    assert (tmp_path / "file").read_text() == "precious"


def test_a_limited_recording_of_nothing_fails(tmp_path, caplog):
    assert recorder.main(["recorder", str(tmp_path / "bag"), "/nobody", "--duration", "0.2"]) == 1
    assert caplog.messages[-1].endswith("nothing was recorded; are /nobody published?")
    assert (tmp_path / "bag" / "metadata.yaml").is_file()
