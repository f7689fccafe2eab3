"""The record of drift: what moved, and a page that says what was recorded."""

import json

import drift


def an_entry(commit: str, **values: float) -> dict:
    metrics = {f"00.{name}": {"value": v, "kind": "exact" if name == "n" else "measured"} for name, v in values.items()}
    seconds = {"00_quickstart": 12.0}
    return {"commit": commit, "date": "2026-01-01", "cpu_seconds": seconds, "wall_seconds": seconds, "metrics": metrics}


def test_the_page_is_that_of_the_record():
    assert drift.PAGE.read_text(encoding="utf-8") == drift.page(json.loads(drift.RECORD.read_text(encoding="utf-8")))


def test_what_moved_most_comes_first_and_exact_numbers_are_named():
    old, new = an_entry("a" * 12, n=4, wer=10.0, same=1.0, gone=1.0), an_entry("b" * 12, n=5, wer=20.0, same=1.0)
    assert [name for _, name, _, _ in drift.moved(old, new)] == ["00.wer", "00.n"]
    page = drift.page([old, new])
    assert "2 of 3 numbers differ, 1 of them" in page and "exact: 00.n" in page and "50.0 %" in page
    assert "What moved" not in drift.page([old])
