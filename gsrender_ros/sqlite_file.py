"""sqlite3 files of rosbag2, damaged ones as far as they go. No rclpy."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gsrender_ros.bag_reading import BagError, first_line
from gsrender_ros.bag_storage import Channel, Record, ros2_type
from gsrender_ros.zstd_files import decompressed, message_bytes


class SqliteFile:
    """One ``.db3``.

    Raises:
        BagError: not a database with rosbag2's tables.
    """

    def __init__(self, path: Path):
        self.path = decompressed(path)
        self.problems: list[str] = []
        # A recording that was killed keeps its last messages in the -wal file, which "immutable" would not look at.
        immutable = "" if self.path.with_name(self.path.name + "-wal").exists() else "&immutable=1"
        try:
            self._database = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro{immutable}", uri=True)
            rows = self._database.execute("SELECT id, name, type FROM topics").fetchall()
        except sqlite3.Error as error:
            raise BagError(f"{path} is no readable rosbag2 database: {first_line(error)}") from error
        self.channels = {number: Channel(name, ros2_type(kind)) for number, name, kind in rows}

    def records(self) -> Iterator[Record]:
        """All messages that can be read, by row; ``problems`` names damaged pages, behind which it goes on."""
        self.problems, last, step = [], 0, 1
        try:
            (end,) = self._database.execute("SELECT max(id) FROM messages").fetchone()
        except sqlite3.Error as error:
            self.problems.append(f"{self.path.name}: {first_line(error)}")
            return
        query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
        while end is not None and last < end:
            try:
                for last, channel, log_ns, data in self._database.execute(query, (last,)):  # noqa: B020 (goes on there)
                    yield Record(channel, log_ns, (last, 0), message_bytes(data))
                    step = 1
                return
            except (sqlite3.Error, BagError) as error:
                self.problems.append(f"{self.path.name}, after message {last}: {first_line(error)}")
                last, step = last + step, 2 * step

    def read(self, position: tuple[int, int], channel: Channel) -> bytes:
        """CDR bytes of the message at a position that ``records`` gave.

        Raises:
            BagError: its page cannot be read, or it is not there any more.
        """
        try:
            row = self._database.execute("SELECT data FROM messages WHERE id = ?", (position[0],)).fetchone()
        except sqlite3.Error as error:
            raise BagError(f"{self.path}, message {position[0]}: {first_line(error)}") from error
        if row is None:
            raise BagError(f"{self.path} has no message {position[0]}: was it changed? Remove its index")
        return message_bytes(row[0])

    def close(self) -> None:
        """Close the database."""
        self._database.close()
