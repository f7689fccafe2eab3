"""Letters: what a token spells, ragged batches, and a unit decoder that reads letters token by token."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from decoder_batch import prompt, row
from tokenizers import Tokenizer, decoders, models
from torch.nn.utils.rnn import pad_sequence

from taste_min.config import mini, tiny
from taste_min.export import load_parts, write_parts
from taste_min.spelling import ALPHABET, N_SYMBOLS, Spelling, spell
from taste_min.unit_decoder import Sampling, UnitDecoder

PIECES = ["<end>", " th", "e", " at", "Wort", "é", "7", " internationally"]
TH, E, AT, WORT, ACCENT, SEVEN, LONG = range(1, 8)
CONFIG = replace(tiny().unit_decoder, max_letters=6, dropout=0.0, position_dropout=0.0)
UNKNOWN = N_SYMBOLS - 1


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A token per piece; the first is special and spells nothing."""
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(PIECES[:1])
    return tokenizer


@pytest.fixture
def spelling(tokenizer) -> Spelling:
    torch.manual_seed(0)
    spelling = Spelling(10, 6, 16)
    spelling.read_vocabulary(tokenizer)
    return spelling


@pytest.fixture
def model(tokenizer) -> UnitDecoder:
    torch.manual_seed(1)
    model = UnitDecoder(CONFIG).eval()
    model.spelling.read_vocabulary(tokenizer)
    return model


@pytest.fixture
def batch() -> dict:
    """Texts of 4, 2 and 3 tokens (14, 7 and 7 letters) with 9, 5 and 7 units."""
    torch.manual_seed(0)
    return {
        "text_ids": torch.tensor([[LONG, TH, E, WORT], [AT, WORT, LONG, LONG], [TH, ACCENT, AT, AT]]),
        "text_lengths": torch.tensor([4, 2, 3]),
        "units": torch.randint(0, 64, (3, 9)),
        "unit_lengths": torch.tensor([9, 5, 7]),
        "speaker_embedding": torch.randn(3, 12),
        "taste_embeddings": torch.randn(3, 4, 32),
    }


# --- what a token spells


@pytest.mark.parametrize(
    "text, read",
    [
        (" the", " the"),
        (" The", " the"),
        ("don't", "don't"),
        (" 1984!", " 1984!"),
        ("well-known;", "well-known;"),
        ("é\n_", "???"),
        ("\ufffd", "?"),
        ("", " "),
    ],
)
def test_spelling_a_piece_of_text(text, read):
    symbols = "_" + ALPHABET.replace("?", "¿") + "?"  # ? stands for the unknown symbol; no text above has one
    assert "".join(symbols[i] for i in spell(text)) == read


def test_symbols_fit_their_table_and_padding_is_none_of_them():
    every = {spell(letter)[0] for letter in ALPHABET + "é"}
    assert every == set(range(1, N_SYMBOLS)) and len(every) == len(ALPHABET) + 1


def test_the_vocabulary_is_spelled_cut_and_padded(spelling):
    for token, piece in enumerate(PIECES[1:], start=1):
        symbols = spell(piece)[:6]
        assert spelling.table[token].tolist() == symbols + [0] * (6 - len(symbols))
    for blank in (0, 8, 9):  # the special token, and two beyond the tokenizer's vocabulary
        assert spelling.table[blank].tolist() == [1, 0, 0, 0, 0, 0]


def test_the_table_follows_the_tokenizer_and_not_the_weights(spelling, tokenizer):
    assert "table" not in spelling.state_dict()
    fresh = Spelling(10, 6, 16)
    assert (fresh.table == 1).all()
    fresh.load_state_dict(spelling.state_dict())
    fresh.read_vocabulary(tokenizer)
    assert torch.equal(fresh.table, spelling.table)


# --- batches


def test_letters_of_a_ragged_batch(spelling):
    letters = spelling.letters(torch.tensor([[TH, E, SEVEN], [LONG, E, E]]), torch.tensor([3, 1]))
    assert letters.lengths.tolist() == [5, 6]
    assert letters.symbols[0].tolist() == spell(" the7") + [0]
    assert letters.symbols[1].tolist() == spell(" inter")
    assert letters.tokens[0, :5].tolist() == [0, 0, 0, 1, 2] and letters.tokens[1].tolist() == [0] * 6


def test_what_stands_in_the_padding_of_the_tokens_does_not_matter(spelling):
    one = spelling.letters(torch.tensor([[AT, WORT, LONG], [TH, E, AT]]), torch.tensor([2, 3]))
    other = spelling.letters(torch.tensor([[AT, WORT, -1], [TH, E, AT]]), torch.tensor([2, 3]))
    for name in ("symbols", "tokens", "lengths"):
        assert torch.equal(getattr(one, name), getattr(other, name))


# --- vectors


def vectors(spelling: Spelling, *tokens: int) -> torch.Tensor:
    with torch.no_grad():
        return spelling(spelling.letters(torch.tensor([tokens]), torch.tensor([len(tokens)])))[0]  # (L, D)


def test_one_token_is_read_by_plain_convolutions(spelling):
    for token in (TH, WORT, LONG):
        with torch.no_grad():
            x = spelling.embedding(torch.tensor([spell(PIECES[token])[:6]])).transpose(1, 2)
            for conv in spelling.convs:
                x = x + F.gelu(conv(x))
        torch.testing.assert_close(vectors(spelling, token), x[0].T)


def test_letters_know_their_neighbours_in_the_token_and_no_others(spelling):
    whole = vectors(spelling, TH, AT, WORT)  # 3 + 3 + 4 letters
    for changed, first, last in (((LONG, AT, WORT), -7, None), ((TH, AT, LONG), 0, 6)):
        torch.testing.assert_close(vectors(spelling, *changed)[first:last], whole[first:last])
    assert (vectors(spelling, TH)[1] - vectors(spelling, AT)[2]).abs().max() > 0.1  # "t" in " th" and in " at"
    with torch.no_grad():  # plain convolutions over two tokens would read across
        x = spelling.embedding(torch.tensor([spell(" th at")])).transpose(1, 2)
        for conv in spelling.convs:
            x = x + F.gelu(conv(x))
    assert (x[0].T - vectors(spelling, TH, AT)).abs().max() > 0.1


@pytest.mark.parametrize("short", [(TH, AT), (SEVEN, WORT), (TH,), (TH, E)])
def test_rows_of_a_batch_are_read_as_alone(spelling, short):
    texts = [torch.tensor(text) for text in ((LONG, AT, TH), short)]
    letters = spelling.letters(pad_sequence(texts, batch_first=True), torch.tensor([3, len(short)]))
    with torch.no_grad():
        together = spelling(letters)
    for i, text in enumerate(texts):
        alone = vectors(spelling, *text.tolist())
        assert len(alone) == letters.lengths[i]
        torch.testing.assert_close(together[i, : len(alone)], alone)


# --- the unit decoder


def test_a_unit_decoder_that_spells_gives_each_row_what_it_gets_alone(model, batch):
    with torch.no_grad():
        together = model(**batch)
        assert together.logits.shape[1] == 14 + 3 + 9  # letters of the longest text, not tokens
        for i in range(3):
            alone = model(**row(batch, i))
            n = alone.logits.shape[1]
            torch.testing.assert_close(together.logits[i, :n], alone.logits[0], atol=1e-5, rtol=0)
            assert together.labels[i, :n].tolist() == alone.labels[0].tolist()
            assert (together.labels[i, n:] == -1).all()


@pytest.mark.parametrize("branch", ["text_ids", "taste_embeddings"])
def test_letters_are_read_causally_token_by_token(model, batch, branch):
    alone = row(batch, 0)
    changed = {**alone, branch: alone[branch].clone()}
    changed[branch][0, 2] += 1  # "e" becomes " at", which also has other letters
    inputs = ("text_ids", "text_lengths", "taste_embeddings")
    with torch.no_grad():
        before, after = (model.fuse(*(batch[key] for key in inputs))[0][0] for batch in (alone, changed))
    n = 6 + 3  # letters of the two tokens before
    torch.testing.assert_close(after[:n], before[:n])
    assert (after[n] - before[n]).abs().max() > 1e-3


def test_a_letter_hears_the_letters_after_it_in_its_token_only(model, batch):
    """The text of one token is there at once, as without spelling; the next token is not."""
    ids, lengths = torch.tensor([[TH, WORT]]), torch.tensor([2])
    model.spelling.table[9] = torch.tensor([*spell("worm"), 0, 0])
    model.text_embedding.weight.data[9] = model.text_embedding.weight.data[WORT]  # they differ in the last letter only
    with torch.no_grad():
        moved = model.fuse(ids, lengths, None)[0] - model.fuse(torch.tensor([[TH, 9]]), lengths, None)[0]
    assert (moved[0].abs().amax(dim=1) > 1e-4).tolist() == [False] * 3 + [True] * 4


def test_cached_generation_equals_repeated_full_computation(model, batch):
    for i in range(3):
        alone = prompt(row(batch, i))
        result = model.generate(**alone, sampling=Sampling(greedy=True, min_units=6, max_units=6))
        units = torch.zeros(1, 0, dtype=torch.long)
        with torch.no_grad():
            for _ in range(6):
                logits = model(**alone, units=units, unit_lengths=torch.tensor([units.shape[1]])).logits[:, -1]
                units = torch.cat((units, logits[:, : CONFIG.n_units].argmax(-1, keepdim=True)), dim=1)
        assert torch.equal(result.units, units)


def test_batched_generation_equals_one_by_one_and_counts_tokens(model, batch):
    for block in model.llm.encoders:  # attention that matters: what padding says would be heard
        block.self_attn.linear_out.weight.data *= 10
    model.llm_decoder.bias.data[CONFIG.n_units] = -100.0  # never wants to stop
    greedy = Sampling(greedy=True, max_ratio=3)
    together = model.generate(**prompt(batch), sampling=greedy)
    assert together.lengths.tolist() == [3 * (n + 3) for n in (4, 2, 3)]  # of tokens, not of letters
    for i, n in enumerate(together.lengths.tolist()):
        alone = model.generate(**prompt(row(batch, i)), sampling=greedy)
        assert torch.equal(together.units[i, :n], alone.units[0])


@pytest.mark.parametrize("text_only", [True, False])
def test_every_parameter_of_the_spelling_learns(model, batch, text_only):
    prediction = model.train()(**batch, text_only=text_only)
    prediction.loss.backward()
    for name, parameter in model.named_parameters():
        audio = name.startswith(("audio_", "fusion"))
        assert (parameter.grad is None) == (audio and text_only), name
    assert all(parameter.grad.abs().max() > 0 for parameter in model.spelling.parameters())
    assert not model.spelling.embedding.weight.grad[0].any()  # padding is no letter


def test_the_letters_tell_tokens_apart(model, batch):
    """With equal token vectors only the spelling is left, and without it the texts would sound alike."""
    model.text_embedding.weight.data[:] = 0
    alone = row(batch, 1)
    other = {**alone, "text_ids": torch.tensor([[TH, WORT]])}  # as many letters
    with torch.no_grad():
        apart = (model(**alone).logits - model(**other).logits).abs().max()
        model.spelling.embedding.weight.data[:] = 0
        assert apart > 1e-3 > (model(**alone).logits - model(**other).logits).abs().max()


def test_a_loaded_unit_decoder_spells_again(tmp_path, model, tokenizer, batch):
    config = replace(tiny(), unit_decoder=CONFIG)
    model = model.half().float()
    write_parts(tmp_path, {"unit_decoder": model})
    loaded = load_parts(tmp_path, config, None, tokenizer)["unit_decoder"]
    assert torch.equal(loaded.spelling.table, model.spelling.table) and loaded.spelling.table.max() > 1
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        loaded.spelling.table.fill_(1)  # what it would be without the tokenizer
        assert not torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_only_the_mini_preset_spells():
    assert mini().unit_decoder.max_letters > 0 == tiny().unit_decoder.max_letters
    assert not hasattr(UnitDecoder(tiny().unit_decoder), "spelling")
