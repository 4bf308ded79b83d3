import pytest
from small import small_training

from gsrender_core.schedule import OpenSchedule, Schedule


def test_warm_up_and_fall_of_a_known_length():
    config = small_training(steps=100, warmup_steps=10, learning_rate=1.0, freeze_norm_at=0.6)
    schedule = Schedule(config)
    assert schedule.rate(0) == pytest.approx(0.1) and schedule.rate(10) == pytest.approx(1.0)
    assert schedule.rate(55) == pytest.approx(0.01 + 0.99 * 0.5)  # half of the cosine
    assert 0.01 < schedule.rate(99) < 0.02
    assert [schedule.norms_frozen(step) for step in (59, 60)] == [False, True]
    assert [schedule.over(step) for step in (99, 100)] == [False, True] and schedule.end == 100
    linear = Schedule(small_training(steps=100, warmup_steps=0, learning_rate=1.0, schedule="linear"))
    assert linear.rate(25) == pytest.approx(0.01 + 0.99 * 0.75)


def test_an_open_schedule_keeps_its_rate_until_it_is_closed():
    config = small_training(steps=1000, warmup_steps=10, learning_rate=1.0, schedule="linear", freeze_norm_at=0.5)
    schedule = OpenSchedule(config, finish_steps=20)
    assert schedule.rate(4) == pytest.approx(0.5) and schedule.rate(500) == 1.0
    assert schedule.end is None and not schedule.over(999) and not schedule.norms_frozen(999)
    schedule.advance(500)
    assert schedule.end is None
    schedule.close(600)
    schedule.close(700)  # the first call counts
    assert schedule.end == 620 and [schedule.over(step) for step in (619, 620)] == [False, True]
    assert schedule.rate(600) == pytest.approx(1.0) and schedule.rate(605) == pytest.approx(0.01 + 0.99 * 0.75)
    assert [schedule.norms_frozen(step) for step in (609, 610)] == [False, True]


def test_an_open_schedule_ends_with_the_steps_at_the_latest():
    schedule = OpenSchedule(small_training(steps=100, warmup_steps=0), finish_steps=30)
    schedule.advance(69)
    assert schedule.end is None
    schedule.advance(70)
    assert schedule.end == 100
    late = OpenSchedule(small_training(steps=100), finish_steps=30)
    late.close(90)
    assert late.end == 100


@pytest.mark.parametrize("finish_steps", [0, 5])
def test_no_finishing_steps_and_more_than_all_steps_are_refused(finish_steps):
    with pytest.raises(ValueError, match=rf"finish_steps: {finish_steps} must lie in 1 \.\. steps, 4"):
        OpenSchedule(small_training(steps=4), finish_steps)
