"""Rows of a large JSON table, one at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 22  # characters read at a time
_GAP = re.compile(r"[\s,]*")


def iterate_rows(path: Path) -> Iterator[dict]:
    """Yield the rows of a JSON table (an array of objects) without holding the file.

    Raises:
        FileNotFoundError: no such table.
        ValueError: not a JSON array of objects, or cut off.
    """
    if not path.is_file():
        present = sorted(p.stem for p in path.parent.glob("*.json"))
        raise FileNotFoundError(f"table {path} is missing; present: {present or 'none'}. Unpack the metadata archive.")
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError(f"{path} does not start with '[': a nuScenes table is a JSON array. Download it again.")
        at, count = 1, 0
        while True:
            at = _GAP.match(text, at).end()
            if text.startswith("]", at):
                return
            try:
                row, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                more = file.read(_CHUNK)
                # No row is as long as a chunk: what still fails then is broken, not cut at the chunk's end.
                if not more or len(text) - at > _CHUNK:
                    raise ValueError(
                        f"{path} is broken or cut off after {count} rows: {error.msg}. Download it again."
                    ) from error
                text, at = text[at:] + more, 0
                continue
            if not isinstance(row, dict):
                raise ValueError(f"{path}: row {count} is a {type(row).__name__}, expected an object")
            count += 1
            yield row
