"""Sampling rules: what may be chosen, in which order the rules act, and what the machine knows of a token."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from taste_min.errors import TasteError
from taste_min.joint_sampler import LOW, JointSampling, keep_top_p, sample_text, sampler_tables

TEXT = ["Hello there, world. Is it $5? Yes!\nIt's a self-made thing; the there then.\n\n  Two  spaces."] * 4


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end_of_text|>", "<|start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def sentence_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def by_text(tokenizer: Tokenizer, field: torch.Tensor) -> dict[str, bool]:
    return {tokenizer.id_to_token(index): bool(value) for index, value in enumerate(field)}


def test_tables_of_a_byte_level_tokenizer():
    tokenizer = byte_level()
    n = tokenizer.get_vocab_size()
    tables = sampler_tables(tokenizer, n + 3)  # three ids without text
    start, end, banned = (
        by_text(tokenizer, field[:n]) for field in (tables.word_start, tables.sentence_end, tables.banned)
    )
    assert start["Ġthere"] and start["<|start|>"] and not start["re"]
    assert end["."] and end["?"] and end["!"] and not end[","]
    assert [token for token in ("?", "$", ";", "-", "Ġthere", "a", ".") if banned[token]] == []
    assert banned["Ġ"] and banned["Ċ"] and banned["<|start|>"] and banned["<|end_of_text|>"]
    assert tables.banned[n:].all()


def test_the_originals_bans_are_an_option():
    tokenizer = byte_level()
    tables = sampler_tables(tokenizer, tokenizer.get_vocab_size(), original=True)
    banned, end = by_text(tokenizer, tables.banned), by_text(tokenizer, tables.sentence_end)
    assert banned["?"] and banned["$"] and banned[";"] and banned["<|end_of_text|>"]
    assert not banned["."] and not banned[","] and not banned["Ġthere"] and not banned["<|start|>"]
    assert end["."] and not end["?"]


def test_sentence_piece_tokens_start_words_too():
    tokenizer = sentence_piece()
    tables = sampler_tables(tokenizer, tokenizer.get_vocab_size())
    start, banned = by_text(tokenizer, tables.word_start), by_text(tokenizer, tables.banned)
    assert any(start[token] for token in start if token.startswith("▁th"))
    assert all(start[token] == token.startswith("▁") for token in start if token != "<unk>")
    assert banned["▁"] and not banned["."]


def test_tables_are_built_once():
    tokenizer = byte_level()
    assert sampler_tables(tokenizer, 330) is sampler_tables(tokenizer, 330)
    assert sampler_tables(tokenizer, 330) is not sampler_tables(tokenizer, 330, original=True)


def test_top_p_keeps_the_best_and_what_fits():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[[2, 0, 3, 1]]
    kept = {p: (keep_top_p(scores, p) > -1e4).nonzero()[:, 0].tolist() for p in (0.01, 0.81, 1.0)}
    assert kept[0.01] == [1]  # the best stays although it alone exceeds p
    assert kept[0.81] == [1, 3]
    assert kept[1.0] == [0, 1, 2, 3]


def draws(scores, history, sampling, n=200):
    generator, banned = torch.Generator().manual_seed(0), torch.zeros(len(scores), dtype=torch.bool)
    return {sample_text(scores, history, sampling, banned, generator) for _ in range(n)}


def test_top_p_acts_before_the_repetition_penalty_and_temperature():
    scores = torch.tensor([3.0, 2.9, 0.0])
    flat = JointSampling(top_p=0.9, temperature=100.0, repetition_penalty=1.0)
    assert draws(scores, [], flat) == {0}  # at temperature 100 before top-p, several would be kept
    penalised = JointSampling(top_p=0.98, temperature=1.0, repetition_penalty=1e4)
    assert draws(scores, [0, 1], penalised) == {0, 1}  # the penalty cannot bring token 2 back
    assert draws(torch.tensor([3.0, 2.9, 0.0]), [0, 1], JointSampling(top_p=1.0, repetition_penalty=1e4)) == {0, 1, 2}


def test_repetition_penalty_lowers_both_signs():
    sampling = JointSampling(top_p=1.0, repetition_penalty=1e6)
    assert draws(torch.tensor([-1.0, -1.0, -1.0]), [0, 0, 2], sampling) == {1}
    scores = torch.tensor([30.0, 20.0])
    assert draws(scores, [0], sampling) == {1}
    assert draws(scores, [], sampling) == {0}
    assert torch.equal(scores, torch.tensor([30.0, 20.0]))  # the caller's scores stay


def test_top_p_zero_takes_the_best_and_bans_always_hold():
    scores, banned = torch.tensor([5.0, 9.0, 7.0]), torch.tensor([False, True, False])
    greedy = JointSampling(top_p=0.0, temperature=50.0, repetition_penalty=100.0)
    assert sample_text(scores, [2], greedy, banned, torch.Generator()) == 2
    hot = JointSampling(top_p=1.0, temperature=1e3)
    assert {sample_text(scores, [], hot, banned, torch.Generator().manual_seed(i)) for i in range(50)} == {0, 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"extra_words": 0},
        {"max_factor": 0},
        {"max_tokens": 0},
        {"top_p": 1.1},
        {"taste_top_p": -0.1},
        {"temperature": 0.0},
    ],
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(TasteError):
        JointSampling(**wrong)


@pytest.mark.parametrize("sharp", [0.0, 0.3, 8.0])
def test_top_p_of_a_large_vocabulary_is_that_of_sorting_all_of_it(sharp):
    scores = sharp * torch.randn(5000, generator=torch.Generator().manual_seed(0)).double()
    scores += torch.arange(5000) * 1e-6  # no two are alike
    ordered, order = scores.sort(descending=True)
    within = ordered.softmax(-1).cumsum(-1) <= 0.9
    expected = torch.full_like(scores, LOW).index_copy(0, order[within], ordered[within])
    assert torch.equal(keep_top_p(scores, 0.9), expected)
