"""How much a ``ReplayBuffer`` may hold, and what it keeps together."""

from dataclasses import dataclass

WAITING_PART = 8  # one part in so many of the memory is for frames that wait


@dataclass(frozen=True)
class BufferLimits:
    """What a ``ReplayBuffer`` may hold.

    Attributes:
        memory_bytes: of all frames, those that wait included.
        stretch: consecutive frames that are kept or forgotten together.
        hold_out_every: each so many stretches one is held out of training; 0: none.
        seed: decides which stretches are forgotten.
        interval_s: time between consecutive frames; where frames are missing in between, neighbours are none. 0: any
            frames that came one after the other are neighbours, as where they are chosen by the way travelled.
    """

    memory_bytes: int
    stretch: int = 8
    hold_out_every: int = 6
    seed: int = 0
    interval_s: float = 0.0

    def __post_init__(self):
        if min(self.memory_bytes, self.stretch) < 1:
            raise ValueError(f"memory_bytes {self.memory_bytes} and stretch {self.stretch} must be 1 or more")
        if self.hold_out_every < 0 or self.hold_out_every == 1:
            raise ValueError(f"hold_out_every is {self.hold_out_every}: 1 leaves nothing to train on; 0 or 2 and more")

    @property
    def waiting_bytes(self) -> int:
        """Memory of the frames that wait."""
        return self.memory_bytes // WAITING_PART

    def part_bytes(self, held_out: bool) -> int:
        """Memory of what is held out, or trained on: shared as the stretches are."""
        left = self.memory_bytes - self.waiting_bytes
        share = left // self.hold_out_every if self.hold_out_every else 0
        return share if held_out else left - share
