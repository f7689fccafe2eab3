"""Files that are there whole or not at all, and records that may be cut anywhere.

A process may be killed and a disk may fill up at any moment; what is left can still be read. No torch, no paper.

Axes: none; this module handles bytes and lines.
"""

import json
import os
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write beside `path` and put it in its place at once. A failure is an OSError and leaves what was there."""
    partial = Path(f"{path}.{os.getpid()}.part")
    try:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)  # a full disk names none
        raise
    finally:
        partial.unlink(missing_ok=True)


def read_records(path: Path) -> list[dict]:
    """The JSON tables of a file that holds one per line, up to the first line that is cut or damaged."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


def to_lines(records: list[dict]) -> str:
    """What `read_records` reads."""
    return "".join(json.dumps(record) + "\n" for record in records)
