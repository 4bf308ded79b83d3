from gsrender_ros.stamped_messages import StampedMessages


def test_the_nearest_message_and_whether_it_is_known():
    stream = StampedMessages("/lidar_top", lambda message: int(message[3:]) % 20, limit=3)
    assert stream.nearest(5) is None and not stream.reaches(5)
    for stamp_ns in (10, 30, 20):  # slightly out of order
        stream.add(stamp_ns, f"at {stamp_ns}")
    assert stream.nearest(19) == (20, "at 20") and stream.nearest(99) == (30, "at 30")
    assert stream.nearest(15) == (10, "at 10")  # the earlier of two as near, as in bags
    assert stream.reaches(30) and not stream.reaches(31)
    stream.add(40, "at 40")
    assert stream.nearest(0) == (20, "at 20") and stream.received == 4  # no more than three are kept
    assert stream.marks == {0, 10} and stream.nearest(29, mark=0) == (20, "at 20")
    assert stream.nearest(29, mark=5) is None
    stream.clear()
    assert stream.nearest(20) is None and stream.received == 4
