"""Every system says something of the right kind, through a whole Taste of random weights."""

from dataclasses import replace

import pytest
import torch
from fake_taste import TEXT, speech, tiny_taste

from taste_min import systems
from taste_min.audio import SAMPLE_RATE, VOCODER_RATE, write_audio
from taste_min.errors import TasteError
from taste_min.phones import SYMBOLS, word_sounds
from taste_min.recordings import Recording
from taste_min.systems import SYSTEMS, System
from taste_min.teacher import teacher_forced
from taste_min.text import Word, tokenize


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wav")
    made = []
    for i, seconds in enumerate((1.0, 1.5)):
        write_audio(folder / f"{i}.wav", speech(seconds, i), SAMPLE_RATE)
        made.append(Recording(str(i), folder / f"{i}.wav", TEXT, {}))
    return made


@pytest.fixture(scope="module")
def taste():
    return tiny_taste()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_speaks(name, recordings, taste):
    spoken = System(name, taste).speak(recordings, seed=1)
    assert len(spoken) == 2
    for one in spoken:
        assert one.wav.ndim == 1 and torch.isfinite(one.wav).all()
        assert one.sample_rate == (SAMPLE_RATE if name == "original" else VOCODER_RATE)
        assert len(one.at_16k()) == pytest.approx(len(one.wav) * SAMPLE_RATE / one.sample_rate, abs=1)
    if name in ("original", "vocoder", "topline", "topline-text"):  # these follow the time of the recording
        assert [len(one.at_16k()) / SAMPLE_RATE for one in spoken] == pytest.approx([1.0, 1.5], abs=0.03)
    again = System(name, taste).speak(recordings, seed=1)
    assert all(torch.equal(a.wav, b.wav) for a, b in zip(spoken, again, strict=True))


def test_bits(recordings, taste):
    bits = {name: System(name, taste).speak(recordings[:1])[0].bits for name in SYSTEMS}
    assert bits["original"] is bits["vocoder"] is bits["no-vq"] is None
    assert bits["topline"] == 50 * 6  # 64 units
    n_tokens, n_words = len(TEXT.replace(" ", "")) + len(TEXT.split()), len(TEXT.split())
    assert bits["topline-text"] == pytest.approx(bits["topline"] + bits["text-only"])
    assert bits["text-only"] == pytest.approx(n_tokens * 6.644, rel=1e-3)  # log2(100), letters and leading spaces
    assert bits["mini"] - bits["text-only"] == pytest.approx(n_words * 4 * 4.585, rel=1e-3)  # four codes of log2(24)


def test_the_topline_with_text_tells_the_flow_the_sounds(recordings, taste, monkeypatch):
    """Noise has no words, so the aligner is told where they are."""
    heard = []

    def synthesize(units, speaker, seed, sounds=None):
        heard.append(sounds)
        return type(taste).synthesize(taste, units, speaker, seed, sounds=sounds)

    monkeypatch.setattr(taste, "synthesize", synthesize)
    words = [Word(word, 0.2 * i, 0.2 * (i + 1)) for i, word in enumerate(TEXT.split())]
    for known in (None, words):
        monkeypatch.setattr(systems, "word_times", lambda wav, text, known=known: known)
        for name in ("topline", "topline-text"):
            System(name, taste).speak(recordings[:1])
    assert heard[:3] == [None] * 3  # without text, text that is not found, without text
    said = heard[3][10:20]  # the first word lasts ten units, its pause comes before it
    assert len(heard[3]) == 50 and {SYMBOLS[i] for i in said} <= {*word_sounds(words[1].text), " "}


def test_the_unit_decoder_is_asked_with_the_true_past(recordings, taste):
    """What it knows depends on the codes, from text alone it does not; the others have no unit decoder."""
    known = {name: System(name, taste).speak(recordings[:1])[0].teacher_forced for name in SYSTEMS}
    assert known["original"] is known["vocoder"] is known["topline"] is known["topline-text"] is None
    for name in ("mini", "text-only", "no-vq"):
        sums = known[name]
        assert sums["unit_positions"] == 51  # 50 units and the end
        assert sums["unit_nats"] > 0 and 0 <= sums["unit_top1"] <= sums["unit_top5"] <= 51
    assert known["mini"]["unit_nats"] != known["no-vq"]["unit_nats"]
    tokens, wav = taste.encode(recordings[0].load(), TEXT), recordings[0].load()
    other = replace(tokens, embeddings=-tokens.embeddings)
    for text_only in (False, True):
        pair = [teacher_forced(taste, wav, one, text_only)["unit_nats"] for one in (tokens, other)]
        assert (pair[0] == pair[1]) is text_only
    with torch.no_grad():
        by_hand = -taste.unit_decoder(*teacher_inputs(taste, wav, tokens)).logits[0].log_softmax(dim=-1)
    labels = [*taste.unit_ids(wav).tolist(), taste.unit_decoder.end_of_speech]
    start = len(by_hand) - len(labels)
    nats = sum(float(by_hand[start + i, label]) for i, label in enumerate(labels))
    assert nats == pytest.approx(teacher_forced(taste, wav, tokens)["unit_nats"], abs=1e-2)


def teacher_inputs(taste, wav, tokens):
    text, units = tokenize(taste.tokenizer, TEXT.split()), taste.unit_ids(wav)
    lengths = torch.tensor([len(text.token_ids)]), torch.tensor([len(units)])
    speaker, vectors = tokens.speaker_embedding[None], tokens.embeddings[text.word_ids][None]
    return text.token_ids[None], lengths[0], units[None], lengths[1], speaker, vectors


def test_a_folder_of_another_systems_files(recordings, tmp_path):
    write_audio(tmp_path / "0.flac", speech(0.7), SAMPLE_RATE)
    spoken = System.load(str(tmp_path)).speak(recordings[:1])[0]
    assert (len(spoken.wav), spoken.sample_rate) == (round(0.7 * SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(TasteError, match="no file 1"):
        System(str(tmp_path)).speak(recordings)


def test_unknown_systems_and_missing_parts(recordings):
    with pytest.raises(TasteError, match="no system 'maxi'"):
        System.load("maxi")
    taste = tiny_taste()
    taste.text_only_decoder = None
    with pytest.raises(TasteError, match="no text only decoder"):
        System("text-only", taste).speak(recordings)
