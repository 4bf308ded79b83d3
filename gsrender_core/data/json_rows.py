"""Rows of a large JSON table and members of a large JSON object, one at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 22  # characters read at a time
_GAP = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")


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


def iterate_members(path: Path, descend: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the members of a JSON object without holding the file: ``((key,), value)``.

    The members of the object under ``descend`` come one by one as well: ``((descend, key), value)``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a JSON object, or broken or cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as file:
        text, at = file.read(_CHUNK), 0
        prefix: tuple[str, ...] = ()
        at = _GAP.match(text, at).end()
        if not text.startswith("{", at):
            raise ValueError(f"{path} does not start with '{{': expected a JSON object. Download it again.")
        at, last = at + 1, "its beginning"
        while True:
            at = _GAP.match(text, at).end()
            if text.startswith("}", at):
                if not prefix:
                    return
                prefix, at = (), at + 1
                continue
            try:
                key, after = decoder.raw_decode(text, at)
                colon = _COLON.match(text, after)
                if colon is None or not isinstance(key, str):
                    raise json.JSONDecodeError("expected a key and a colon", text, after)
                if key == descend and not prefix and text.startswith("{", colon.end()):
                    prefix, at = (key,), colon.end() + 1
                    continue
                value, end = decoder.raw_decode(text, colon.end())
                # A number at the chunk's end may go on in the next one.
                if end == len(text) and not isinstance(value, str | list | dict):
                    raise json.JSONDecodeError("cut off", text, end)
            except json.JSONDecodeError as error:
                more = file.read(_CHUNK)
                # A scene of annotations.json is far shorter: what still fails then is broken.
                if not more or len(text) - at > 16 * _CHUNK:
                    raise ValueError(
                        f"{path} is broken or cut off after {last}: {error.msg}. Download it again."
                    ) from error
                text, at = text[at:] + more, 0
                continue
            at, last = end, key
            yield (*prefix, key), value
