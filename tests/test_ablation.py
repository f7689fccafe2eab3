"""The ablation on random features: what is paired, what is equal, and that its controls are what they say."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from experiments.ablation import CONDITIONS, Condition, Conditioned, Protocol
from experiments.ablation_data import Corpus, KeptStore, attended, join_units, real, stored_layers, word_vectors
from experiments.ablation_run import Phase, Setting, layer_statistics, opened, run, text_state, train
from experiments.ablation_scores import COLUMNS, begins_word, evaluate, past_hidden, shuffled
from fake_corpus import make_features
from safetensors.torch import save_file

from taste_min.aggregator import Aggregator
from taste_min.config import tiny
from taste_min.data import FeatureStore
from taste_min.errors import TasteError

WORDS = ("cat", "dog", "stop", "well")
SPELLED = SimpleNamespace(decode=lambda ids: "".join(f" {WORDS[i % 4]}" for i in ids))
PROTOCOL = Protocol(
    decoder=replace(tiny().unit_decoder, pronounced=True, unit_dropout=1.0, n_units=16, dropout=0.0),
    n_heads=4,
    codebook_dim=8,
    budget=200,
    text_steps=4,
    steps=5,
    warmup=2,
    eval_every=2,
    prepare_batches=3,
)
SMALL = {name: replace(condition, codebook_size=8) for name, condition in CONDITIONS.items()}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    make_features(folder, splits=("train", "train", "dev", "test"))
    store = FeatureStore(folder, ("train", "dev", "test"))
    g, words = torch.Generator().manual_seed(0), {}
    for row in store.rows:
        for layer in ("hidden_2", "last"):
            words[f"{row['id']}.{layer}"] = torch.randn((row["n_tokens"] + 1) // 2, 4, 32, generator=g)
        words[f"{row['id']}.words"] = torch.randn((row["n_tokens"] + 1) // 2, 32, generator=g)
    save_file(words, folder / "words.safetensors")
    classes = torch.arange(64) % 16
    splits = (
        Corpus(KeptStore(folder, s), 3.0, folder / "words.safetensors", classes) for s in ("train", "dev", "test")
    )
    corpora = list(splits)
    return Setting(PROTOCOL, *corpora, SPELLED, layer_statistics(corpora[0]), folder / "work")


def load(corpus, numbers, name):
    return corpus.load(numbers, SMALL[name].source, SMALL[name].values)


def test_a_limit_that_leaves_nothing_is_refused(setting):
    with pytest.raises(TasteError, match="no utterance is shorter"):
        Corpus(setting.train.store, 0.1, setting.work.parent / "words.safetensors", setting.train.classes)


def test_a_corpus_of_chosen_utterances_keeps_their_order_and_names_the_missing(setting):
    store, words, classes = setting.test.store, setting.work.parent / "words.safetensors", setting.test.classes
    chosen = [row["id"] for row in setting.test.rows][::-1]
    assert [row["id"] for row in Corpus(store, 3.0, words, classes, chosen).rows] == chosen
    with pytest.raises(TasteError, match="have no nobody"):
        Corpus(store, 3.0, words, classes, [*chosen, "nobody"])


def test_all_conditions_of_a_seed_see_the_same_batches_for_the_same_number_of_steps(setting):
    seen = {}
    original = Corpus.load
    for name in ("text_only", "encoder", "attended_last", "aggregator", "quantizer", "r8"):
        numbers = []

        def spy(self, indices, source, values, numbers=numbers):
            if self is setting.train:
                numbers.append(tuple(indices))
            return original(self, indices, source, values)

        Corpus.load = spy
        try:
            phase = opened(SMALL[name], setting, 3)
            numbers.clear()
            phase.advance(PROTOCOL.steps)
        finally:
            Corpus.load = original
        seen[name] = numbers
        assert phase.step == PROTOCOL.steps
    assert len(set(map(tuple, seen.values()))) == 1
    other = Phase(opened(SMALL["encoder"], setting, 4).model, setting, 4, 1, PROTOCOL.steps)
    assert [tuple(other.order[i]) for i in range(PROTOCOL.steps)] != seen["encoder"]


def test_all_conditions_start_as_the_same_function(setting):
    inputs, losses = {}, []
    for name in ("text_only", "encoder", "aggregator", "attended", "quantizer"):
        model = opened(SMALL[name], setting, 0).model.eval()
        inputs = load(setting.dev, [0, 1, 2], name)
        losses.append(float(model(inputs, model.vectors(inputs)[0]).loss.detach()))
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-5)


def test_first_weights_are_those_of_the_seed_and_not_of_the_condition(setting):
    a, b, c = (text_state(setting, seed)["model"]["unit_decoder.llm_decoder.weight"] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_run_that_goes_on_from_a_kept_state_ends_where_an_unbroken_one_does(setting):
    whole = opened(SMALL["aggregator"], setting, 0)
    whole.advance(PROTOCOL.steps)
    broken = opened(SMALL["aggregator"], setting, 0)
    broken.advance(2)
    state = broken.state()
    again = opened(SMALL["aggregator"], setting, 0)
    again.restore(state)
    again.advance(PROTOCOL.steps)
    assert again.curve == whole.curve
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_shuffling_moves_every_vector_and_loses_none():
    x = torch.arange(24.0).view(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    for seed in range(20):
        moved = shuffled(x, mask, torch.Generator().manual_seed(seed))
        assert (moved[mask] != x[mask]).all()
        assert torch.equal(moved[mask].sort(dim=0).values, x[mask].sort(dim=0).values)
        assert (moved[~mask] == 0).all()


@pytest.mark.parametrize("name", ["encoder", "aggregator", "attended", "quantizer"])
def test_the_decoder_listens_to_what_a_condition_gives_it(setting, name):
    model = train(SMALL[name], setting, 0).model.eval()
    inputs = load(setting.test, [0, 1, 2], name)
    vectors, _ = model.vectors(inputs)
    other = shuffled(vectors, real(inputs), torch.Generator().manual_seed(0))
    a, b = (model(inputs, v).logits.detach() for v in (vectors, other))
    assert not torch.allclose(a, b)


def test_a_frame_is_heard_at_its_own_unit_and_not_before(setting):
    model = train(SMALL["encoder"], setting, 0).model.eval()
    inputs = load(setting.test, [0], "encoder")
    a = model(inputs, inputs.states)
    changed = inputs.states.clone()
    changed[:, 7] += 3
    b = model(inputs, changed)
    first = int((a.labels[0] >= 0).nonzero()[0])  # predicts unit 0
    differs = (a.logits != b.logits)[0].any(dim=-1).nonzero()[:, 0]
    assert int(differs.min()) == first + 7


def test_hiding_the_past_hides_all_of_it_and_is_undone(setting):
    model = opened(SMALL["text_only"], setting, 0).model.eval()
    inputs = load(setting.test, [0], "text_only")
    units = inputs.batch.units
    other = replace(inputs, batch=replace(inputs.batch, units=(units + 1) % 16))
    with torch.no_grad():
        before = model(inputs, None).logits
        assert not torch.equal(before, model(other, None).logits)
        with past_hidden(model):
            assert torch.equal(model(inputs, None).logits, model(other, None).logits)
        assert torch.equal(before, model(inputs, None).logits)


def test_the_first_units_of_a_word_begin_with_its_first_sound(setting):
    model = opened(SMALL["text_only"], setting, 0).model
    inputs = load(setting.test, [0], "text_only")
    symbols = model.unit_decoder.reader.sounds(inputs.batch.token_ids, inputs.batch.token_lengths).symbols[0]
    first = begins_word(model, inputs, 2)[0]
    pointer = inputs.batch.pointer[0]
    # five units per sound; sound 0 is the pause in front of the text, so the first word begins at unit 5
    assert first[:9].tolist() == [False] * 5 + [True, True, False, False]
    assert all(symbols[p] > 4 for p in pointer[first])
    assert begins_word(model, inputs, 3).sum() > first.sum()


def test_scores_are_those_of_the_loss(setting):
    model = opened(SMALL["text_only"], setting, 0).model.eval()
    table = evaluate(model, setting.test, PROTOCOL, full=True)
    assert set(table) == {"with_past", "without_past"} and len(table["with_past"]) == len(setting.test.rows)
    for i in (0, 3):
        row = dict(zip(COLUMNS, table["with_past"][i], strict=True))
        with torch.no_grad():
            loss = model(load(setting.test, [i], "text_only"), None).loss
        assert row["n"] == setting.test.rows[i]["n_units"] + 1
        assert row["nats"] / row["n"] + row["step_nats"] / row["step_n"] == pytest.approx(float(loss), abs=1e-3)
        assert row["top1"] <= row["top5"] <= row["n"] and 0 < row["first_n"] < row["n"]


def test_a_record_has_what_the_table_needs(setting):
    record = run(SMALL["r2"], setting, 0)
    assert record["steps"] == [PROTOCOL.text_steps, PROTOCOL.steps]
    assert set(record["test"]) == {"with_past", "without_past", "shuffled"}
    assert [point[0] for point in record["dev_loss"]["then"]] == [2, 4, 5]
    books = record["codebooks"]
    assert len(books["perplexity"]) == len(books["dead"]) == 2
    assert all(1 <= p <= 8 - dead for p, dead in zip(books["perplexity"], books["dead"], strict=True))


def test_what_a_word_attends_to_is_the_mean_of_its_tokens(setting):
    torch.manual_seed(0)
    decoder = Aggregator(tiny().aggregator).eval()
    store = setting.train.store
    found = attended(decoder, store, 0, ["last", "hidden_2"])
    last, tokens, words = (store.tensor(0, name)[None] for name in ("last", "token_ids", "word_ids"))
    length = torch.tensor([tokens.shape[1]])
    with torch.no_grad():
        maps = decoder(tokens.long(), words.long(), length, last, last, need_attention=True).cross_attention
    for word in range(int(words.max()) + 1):
        mean = maps[0, -1][:, words[0] == word].mean(dim=1)  # (H, T)
        assert torch.allclose(found["hidden_2"][word], mean @ store.tensor(0, "hidden_2"), atol=1e-5)
    vectors = word_vectors(decoder, store, 0, "hidden_2")
    with torch.no_grad():
        pooled = decoder(tokens.long(), words.long(), length, last, store.tensor(0, "hidden_2")[None]).pooled[0]
    assert all(torch.equal(vectors[word], pooled[words[0] == word][0]) for word in range(len(vectors)))
    assert stored_layers(store) == ["hidden_2", "last"]


def test_joined_units_are_neighbours():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    units = (centres[:, None] + 0.1 * torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))).flatten(0, 1)
    classes = join_units(units, 3).view(3, 5)
    assert torch.equal(classes, join_units(units, 3).view(3, 5))
    assert len(classes.unique()) == 3 and (classes == classes[:, :1]).all()


def test_the_values_of_a_head_reach_only_its_part():
    model = Conditioned(Condition("attended"), PROTOCOL, SPELLED)
    states = torch.randn(1, 3, 4, 32)
    changed = states.clone()
    changed[:, :, 1] += 1
    moved = (model.aggregator(states) - model.aggregator(changed)).abs() > 1e-6
    assert moved[..., 8:16].all() and not moved[..., :8].any() and not moved[..., 16:].any()
