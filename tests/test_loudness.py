"""tools/loudness.py at tiny size: speech starts as loud as asked, and hidden text is hidden while training only."""

import loudness
import pytest
import torch
from fake_codes import make_codes

from taste_min.data import FeatureStore
from taste_min.taslm_files import build_taslm

pytestmark = pytest.mark.filterwarnings("ignore:.*BCa")


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> tuple[FeatureStore, FeatureStore]:
    torch.manual_seed(loudness.SEED)  # the tiny quantizer is a random one
    folder = make_codes(tmp_path_factory.mktemp("codes"), build_taslm("tiny", "token").quantizer)
    return FeatureStore(folder, "train"), FeatureStore(folder, "dev")


@pytest.mark.parametrize("way", loudness.WAYS)
def test_every_way_starts_as_loud_as_it_says_and_is_trained(splits, way):
    row = loudness.train(way, *splits, steps=8, preset="tiny")
    assert row["before"]["loudness"] == pytest.approx(float(way.split(",")[0]), rel=0.2)
    assert row["after"]["code_loss"]["value"] != row["before"]["code_loss"]["value"]
    assert row["after"]["loudness"] != row["before"]["loudness"]


def test_text_is_hidden_in_some_batches_of_the_training_alone(splits):
    objective = loudness.Hiding("taslm_token", build_taslm("tiny", "token"))
    generator = torch.Generator().manual_seed(0)
    seen = [bool((objective.load(splits[0], [0], generator).text_labels >= 0).any()) for _ in range(12)]
    assert 0 < sum(seen) < 12
    objective.eval()
    assert all((objective.load(splits[1], [0]).text_labels >= 0).any() for _ in range(12))
