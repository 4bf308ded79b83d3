"""Which sets of images become frames: by hand, and as a property of random drives."""

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_core.geometry import transform
from gsrender_ros.keyframes import TOLERANCE, KeyframeRule

SECOND_NS = 1_000_000_000


def at(x_m: float) -> np.ndarray:
    return transform(np.eye(3), (x_m, 0.0, 0.0))


def chosen(rule: KeyframeRule, stamps_s, places_m) -> list[int]:
    """Numbers of the sets that are used, asked for as those who use the rule ask."""
    found = []
    for number, (stamp_s, x_m) in enumerate(zip(stamps_s, places_m, strict=True)):
        stamp_ns = round(stamp_s * SECOND_NS)
        if rule.due(stamp_ns) and rule.moved(at(x_m)):
            rule.use(stamp_ns, at(x_m))
            found.append(number)
    return found


def test_an_interval_counts_a_tenth_before_its_end():
    rule = KeyframeRule(BagConfig(keyframe_interval_s=0.5))
    assert rule.due(0)
    rule.use(0, at(0.0))
    assert [rule.due(stamp_ns) for stamp_ns in (0, 449_999_999, 450_000_000, SECOND_NS)] == [False, False, True, True]
    # A camera at 12 Hz, 6 frames an interval, whose triggers shake by 5 ms.
    stamps_s = np.arange(30) / 12 + np.random.default_rng(0).uniform(-0.005, 0.005, 30)
    assert chosen(KeyframeRule(BagConfig(keyframe_interval_s=0.5)), stamps_s, np.zeros(30)) == [0, 6, 12, 18, 24]


def test_both_time_and_distance_are_asked_for():
    rule = KeyframeRule(BagConfig(keyframe_interval_s=0.2, keyframe_distance_m=0.99))
    # Stands for 0.3 s, then 5 m/s: 1 m is passed 0.2 s after the start of the motion.
    stamps_s = np.arange(0, 1.0, 0.1)
    places_m = np.maximum(0, stamps_s - 0.3) * 5.0
    assert chosen(rule, stamps_s, places_m) == [0, 5, 7, 9]
    standing = KeyframeRule(BagConfig(keyframe_interval_s=0.2, keyframe_distance_m=0.99))
    assert chosen(standing, stamps_s, np.zeros(10)) == [0]


def test_a_set_that_is_due_but_not_used_starts_no_interval():
    rule = KeyframeRule(BagConfig(keyframe_interval_s=0.5))
    rule.use(0, at(0.0))
    assert rule.due(SECOND_NS // 2) and rule.due(6 * SECOND_NS // 10)  # the first had no sweep, say


def test_after_a_jump_back_the_next_set_is_one():
    rule = KeyframeRule(BagConfig(keyframe_interval_s=0.5, keyframe_distance_m=10.0))
    rule.use(10 * SECOND_NS, at(0.0))
    assert rule.due(9 * SECOND_NS) and not rule.moved(at(1.0))
    rule.restart()
    assert rule.due(10 * SECOND_NS + 1) and rule.moved(at(0.0))


def test_the_place_is_kept_and_not_the_array():
    rule, T = KeyframeRule(BagConfig(keyframe_distance_m=1.0)), at(0.0)
    rule.use(0, T)
    T[0, 3] = 5.0  # whoever made it uses it for the next set
    assert rule.moved(T)


def test_frames_of_any_drive_are_apart_and_none_that_fits_is_left_out():
    rng = np.random.default_rng(1)
    for _ in range(20):
        interval_s, distance_m = rng.uniform(0.1, 1.0), rng.choice([0.0, rng.uniform(0.1, 3.0)])
        stamps_s, places_m = np.cumsum(rng.uniform(0.02, 0.4, 60)), np.cumsum(rng.uniform(0.0, 1.0, 60))
        config = BagConfig(keyframe_interval_s=interval_s, keyframe_distance_m=distance_m)
        used = chosen(KeyframeRule(config), stamps_s, places_m)
        enough_s = (1 - TOLERANCE) * interval_s - 1e-6
        assert used[0] == 0 and (np.diff(stamps_s[used]) >= enough_s).all()
        assert (np.diff(places_m[used]) >= distance_m - 1e-9).all()
        for number in set(range(60)) - set(used):
            before = max(i for i in used if i < number)
            late, far = stamps_s[number] - stamps_s[before], places_m[number] - places_m[before]
            assert late < enough_s + 2e-6 or far < distance_m + 1e-9
