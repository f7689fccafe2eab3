"""Sounds: how words are read, ragged batches, the pointer, and a unit decoder that follows it."""

from dataclasses import replace

import pytest
import torch
from decoder_batch import prompt, row
from tokenizers import Tokenizer, decoders, models

from taste_min.config import mini, tiny
from taste_min.errors import TasteError
from taste_min.export import load_parts, write_parts
from taste_min.phones import INDEX, SYMBOLS, SoundReader, read_aloud, word_sounds
from taste_min.pointer import LONGEST, MAX_STEP, Pointer, lasted, sound_path
from taste_min.unit_decoder import UnitDecoder
from taste_min.unit_sampling import Sampling

PIECES = ["<end>", " st", "op", " top", " cat", "s,", "7", " well"]
ST, OP, TOP, CAT, S, SEVEN, WELL = range(1, 8)
CONFIG = replace(tiny().unit_decoder, pronounced=True, dropout=0.0, position_dropout=0.0)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A token per piece; the first is special and spells nothing."""
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(PIECES[:1])
    return tokenizer


@pytest.fixture
def reader(tokenizer) -> SoundReader:
    torch.manual_seed(0)
    reader = SoundReader(16)
    reader.read_vocabulary(tokenizer)
    return reader


@pytest.fixture
def model(tokenizer) -> UnitDecoder:
    torch.manual_seed(1)
    model = UnitDecoder(CONFIG).eval()
    model.reader.read_vocabulary(tokenizer)
    return model


@pytest.fixture
def batch() -> dict:
    """Texts of 4, 2 and 3 tokens with 20, 8 and 12 units, and where each unit is in its text."""
    torch.manual_seed(0)
    path = torch.arange(20)
    return {
        "text_ids": torch.tensor([[ST, OP, CAT, S], [CAT, SEVEN, WELL, WELL], [TOP, ST, OP, OP]]),
        "text_lengths": torch.tensor([4, 2, 3]),
        "units": torch.randint(0, 64, (3, 20)),
        "unit_lengths": torch.tensor([20, 8, 12]),
        "speaker_embedding": torch.randn(3, 12),
        "taste_embeddings": torch.randn(3, 4, 32),
        "pointer": torch.stack([path // 2, path.clamp(max=3), path]).clamp(max=8),
    }


def spoken(reader: SoundReader, *tokens: int) -> str:
    sounds = reader.sounds(torch.tensor([tokens]), torch.tensor([len(tokens)]))
    return "|".join(SYMBOLS[i] for i in sounds.symbols[0].tolist())


# --- words and sounds


@pytest.mark.parametrize(
    "word, sounds",
    [
        ("stop", "S T AA P _"),
        ("Stop!", "S T AA P ."),
        ("well-known,", "W EH L N OW N ,"),
        ("really?", "R IH L IY ?"),
        ("7", "S EH V AH N _"),
        ("zzyzzyva;", "Z IH Z IH V AH ,"),
        ("-", ","),
        ('("cat")', "K AE T _"),
    ],
)
def test_the_sounds_of_a_word_and_the_pause_after_it(word, sounds):
    assert [sound.replace(" ", "_") for sound in word_sounds(word)] == sounds.split()


def test_every_sound_has_a_symbol_and_padding_has_none():
    assert INDEX[""] == 0 and len(set(SYMBOLS)) == len(SYMBOLS)
    text = "the quick brown fox jumps over a lazy dog while measuring joy, thought and yellow thirst"
    symbols, owners = read_aloud(text.split())
    assert 0 not in symbols and len(symbols) == len(owners) and owners == sorted(owners)


@pytest.mark.parametrize(("end", "pause"), [("", "."), (",", "."), (".", "."), ("!", "."), ("?", "?")])
def test_every_text_ends_as_a_sentence(end, pause):
    symbols, owners = read_aloud(["a", f"cat{end}"])
    assert symbols[-1] == INDEX[pause] and owners[-1] == 1
    assert symbols[:-1] == read_aloud(["a", "cat."])[0][:-1]


def test_tokens_are_joined_to_words(reader):
    assert spoken(reader, ST, OP) == " |S|T|AA|P|."
    assert spoken(reader, CAT, S, TOP) == " |K|AE|T|S|,|T|AA|P|."
    sounds = reader.sounds(torch.tensor([[ST, OP, CAT, S]]), torch.tensor([4]))
    assert sounds.tokens[0].tolist() == [1] * 6 + [3] * 5  # the last token of each word has heard all of it


def test_what_stands_in_the_padding_of_the_tokens_does_not_matter(reader):
    one = reader.sounds(torch.tensor([[CAT, S, WELL], [TOP, ST, OP]]), torch.tensor([2, 3]))
    other = reader.sounds(torch.tensor([[CAT, S, -1], [TOP, ST, OP]]), torch.tensor([2, 3]))
    for name in ("symbols", "tokens", "lengths"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.lengths.tolist() == [6, 10] and (one.tokens[0, 6:] == -1).all() and not one.symbols[0, 6:].any()


def test_rows_of_a_batch_are_read_as_alone(reader):
    ids, lengths = torch.tensor([[CAT, S, WELL], [TOP, ST, OP]]), torch.tensor([2, 3])
    with torch.no_grad():
        together = reader(reader.sounds(ids, lengths))
        for i, n in enumerate(lengths):
            alone = reader(reader.sounds(ids[i : i + 1, :n], lengths[i : i + 1]))[0]
            torch.testing.assert_close(together[i, : len(alone)], alone)
            assert not together[i, len(alone) :].any()


def test_a_sound_knows_its_neighbours(reader):
    with torch.no_grad():
        stop, top = (reader(reader.sounds(torch.tensor([t]), torch.tensor([len(t)])))[0] for t in ([ST, OP], [TOP]))
    assert (stop[2] - top[1]).abs().max() > 0.1  # the T of "stop" and of "top"


# --- where in the sounds a recording is


def test_the_pointer_follows_the_times_of_the_sounds():
    times = [[(0.1, 0.16), (0.16, 0.2), (0.2, 0.3)], [(0.4, 0.46), (0.46, 0.52), (0.52, 0.6)]]
    path = sound_path(["cat", "top,"], times, 40).tolist()
    # pause, K, AE, T, pause, T, AA, P, pause: every 20 ms
    assert path[:5] == [0] * 5 and path[5:8] == [1] * 3 and path[8:10] == [2] * 2 and path[10:15] == [3] * 5
    assert path[15:20] == [4] * 5 and path[20:23] == [5] * 3 and path[26:30] == [7] * 4 and path[30:] == [8] * 10


def test_a_word_with_another_pronunciation_is_divided_evenly():
    path = sound_path(["cat"], [[(0.0, 0.6)]], 40).tolist()
    assert path == [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10


def test_the_pointer_neither_goes_back_nor_jumps():
    times = [[(0.1, 0.12), (0.12, 0.121), (0.121, 0.122)], [], [(0.122, 0.123), (0.123, 0.3), (0.3, 0.31)]]
    path = sound_path(["cat", "-", "top"], times, 30)
    steps = path.diff()
    assert steps.min() >= 0 and steps.max() <= MAX_STEP and int(path[0]) <= MAX_STEP
    assert int(path[-1]) == len(read_aloud(["cat", "-", "top"])[0]) - 1


def test_how_long_a_value_has_lasted():
    values = torch.tensor([[0, 0, 2, 2, 2, 5], [1, 0, 1, 1, 1, 1]])
    assert lasted(values).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 2, 3]]
    assert int(lasted(torch.zeros(1, 200).long()).max()) == LONGEST - 1


# --- the unit decoder


def test_each_row_gets_what_it_gets_alone(model, batch):
    with torch.no_grad():
        together = model(**batch)
        for i in range(3):
            alone = model(**row(batch, i))
            n = alone.logits.shape[1]
            torch.testing.assert_close(together.logits[i, :n], alone.logits[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.step_logits[i, :n], alone.step_logits[0], atol=1e-5, rtol=0)
            assert together.labels[i, :n].tolist() == alone.labels[0].tolist()
            assert together.step_labels[i, :n].tolist() == alone.step_labels[0].tolist()
            assert (together.labels[i, n:] == -1).all() and (together.step_labels[i, n:] == -1).all()


def test_steps_lead_from_the_first_unit_to_the_end(model, batch):
    prediction = model(**batch)
    for i, n in enumerate(batch["unit_lengths"].tolist()):
        steps = prediction.step_labels[i][prediction.step_labels[i] >= 0]
        last = int(model.reader.sounds(batch["text_ids"][i : i + 1], batch["text_lengths"][i : i + 1]).lengths) - 1
        end = min(int(batch["pointer"][i, n - 1]) + MAX_STEP, last)
        assert len(steps) == n and int(steps.sum()) == end - int(batch["pointer"][i, 0])


def test_the_pointer_is_heard_and_its_future_is_not(model, batch):
    alone = row(batch, 0)
    moved = {**alone, "pointer": alone["pointer"].clone()}
    moved["pointer"][0, 10:] += 1
    with torch.no_grad():
        change = (model(**alone).logits - model(**moved).logits)[0].abs().amax(dim=1)
    start = len(change) - 21 + 10  # the position that predicts unit 10
    assert change[:start].max() < 1e-5 < 1e-3 < change[start:].min()


def test_without_a_pointer_there_is_one_clear_sentence(model, batch):
    with pytest.raises(TasteError, match="pointer"):
        model(**{**batch, "pointer": None})


def test_cached_generation_equals_repeated_full_computation(model, batch):
    """With the path that the pointer took, a full computation finds the same units."""
    model.step_decoder.bias.data = torch.tensor([0.3, 0.6, -1.0, -2.0])
    for i in range(3):
        alone = prompt(row(batch, i))
        result = model.generate(**alone, sampling=Sampling(greedy=True, min_units=9, max_units=9))
        units, path, follow = torch.zeros(1, 0, dtype=torch.long), [], None
        with torch.no_grad():
            prompts = model.prompts(
                *(alone[k] for k in ("text_ids", "text_lengths", "speaker_embedding")), alone["taste_embeddings"]
            )
            follow = Pointer(prompts.sounds, prompts.fused)
            for _ in range(9):
                path.append(int(follow.at))
                full = model(
                    **alone,
                    units=torch.cat((units, torch.zeros(1, 1, dtype=torch.long)), dim=1),
                    unit_lengths=torch.tensor([units.shape[1] + 1]),
                    pointer=torch.tensor([path]),
                )
                units = torch.cat((units, full.logits[:, -2, : CONFIG.n_units].argmax(-1, keepdim=True)), dim=1)
                follow.move(full.step_logits[:, -2])
        assert torch.equal(result.units, units) and max(path) > 2
        assert torch.equal(result.sounds, prompts.sounds.symbols[:, path])


def test_speech_ends_at_the_end_of_the_text_only(model, batch):
    model.llm_decoder.bias.data[CONFIG.n_units] = 100.0  # wants to stop at once
    model.step_decoder.weight.data[:] = 0
    model.step_decoder.bias.data = torch.tensor([0.0, 5.0, -5.0, -5.0])  # a sound per unit
    result = model.generate(**prompt(batch), sampling=Sampling(greedy=True, min_ratio=0))
    sounds = model.reader.sounds(batch["text_ids"], batch["text_lengths"])
    assert result.lengths.tolist() == (sounds.lengths - 2).tolist() and result.ended.all()


def test_a_sound_lasts_as_long_as_it_more_likely_lasts_than_not(model, batch):
    prompts = model.prompts(batch["text_ids"], batch["text_lengths"], batch["speaker_embedding"], None)
    follow, path = Pointer(prompts.sounds, prompts.fused), []
    for _ in range(12):
        path.append(follow.at.tolist())
        follow.move(torch.tensor([[0.75, 0.15, 0.06, 0.04], [0.4, 0.5, 0.1, 0.0], [0.9, 0.0, 0.1, 0.0]]).log())
    first, second, third = zip(*path, strict=True)
    assert first == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)  # .75 ** 3 is the first power below one half
    assert second[:4] == (0, 1, 2, 3) and third == (0,) * 7 + (2,) * 5


def test_batched_generation_equals_one_by_one(model, batch):
    for block in model.llm.encoders:  # attention that matters: what padding says would be heard
        block.self_attn.linear_out.weight.data *= 10
    model.llm_decoder.bias.data[CONFIG.n_units] = -100.0  # never wants to stop
    greedy = Sampling(greedy=True, max_ratio=3)
    together = model.generate(**prompt(batch), sampling=greedy)
    assert together.lengths.tolist() == [3 * (n + 3) for n in (4, 2, 3)]  # of tokens, not of sounds
    for i, n in enumerate(together.lengths.tolist()):
        alone = model.generate(**prompt(row(batch, i)), sampling=greedy)
        assert torch.equal(together.units[i, :n], alone.units[0])


@pytest.mark.parametrize("text_only", [True, False])
def test_every_parameter_learns(model, batch, text_only):
    prediction = model.train()(**batch, text_only=text_only)
    prediction.loss.backward()
    for name, parameter in model.named_parameters():
        audio = name.startswith(("audio_", "fusion"))
        assert (parameter.grad is None) == (audio and text_only), name
    for module in (model.reader, model.place, model.step_decoder):
        assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())
    assert not model.reader.embedding.weight.grad[0].any()  # padding is no sound


def test_a_loaded_unit_decoder_reads_again(tmp_path, model, tokenizer, batch):
    config = replace(tiny(), unit_decoder=CONFIG)
    model = model.half().float()
    write_parts(tmp_path, {"unit_decoder": model})
    loaded = load_parts(tmp_path, config, None, tokenizer)["unit_decoder"]
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    with pytest.raises(TasteError, match="tokenizer"):
        load_parts(tmp_path, config, None)


def test_only_the_mini_preset_reads_sounds():
    assert mini().unit_decoder.pronounced and not tiny().unit_decoder.pronounced
    assert not hasattr(UnitDecoder(tiny().unit_decoder), "reader")
