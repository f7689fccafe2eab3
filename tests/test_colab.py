"""What tools/colab.py does without installing anything, and its record: every chapter alone, its first cell in time."""

import json
import re

import book_files
import colab
import pytest

CHAPTERS = [path.stem for path in book_files.notebooks() if path.stem != book_files.LEDGER]


def test_the_order_depends_on_the_seed_only():
    orders = {tuple(colab.draw(CHAPTERS, seed)) for seed in range(20)}
    assert len(orders) > 10 and all(sorted(order) == sorted(CHAPTERS) for order in orders)
    assert colab.draw(CHAPTERS[::-1], 3) == colab.draw(CHAPTERS, 3)


def test_changes_are_added_replaced_and_gone():
    found = colab.changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"})
    assert found == {"added": ["d 1"], "replaced": ["b 1 -> 2", "c 1 -> gone"]}
    assert colab.changes({"a": "1"}, {"a": "1"}) == {"added": [], "replaced": []}


def test_the_base_is_exact_and_lacks_what_the_first_cell_has_to_bring():
    packages = colab.base_packages()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", package) for package in packages)
    names = [package.split("==")[0].lower() for package in packages]
    assert len(set(names)) == len(names)
    assert {*colab.KEPT, "pip", "ipykernel", "ipywidgets", "transformers"} <= set(names)
    assert not {"jiwer", "pocketsphinx", "taste_min"} & set(names)


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_chapter_ran_alone_and_its_first_cell_was_in_time(name):
    run = json.loads(colab.RECORD.read_text(encoding="utf-8"))[name]
    assert run["outcome"] == "clean" and run["metrics"] > 0
    assert 0 < run["bootstrap_seconds"] < colab.MAX_SECONDS and run["bootstrap_seconds"] < run["seconds"]
    assert any(package.startswith("taste-min ") for package in run["added"])
    assert not any(package.split()[0] in (*colab.KEPT, "ipywidgets") for package in run["replaced"])
