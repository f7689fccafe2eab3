"""Every system says something of the right kind, through a whole Taste of random weights."""

import pytest
import torch
from fake_taste import TEXT, speech, tiny_taste

from taste_min import systems
from taste_min.audio import SAMPLE_RATE, VOCODER_RATE, write_audio
from taste_min.errors import TasteError
from taste_min.phones import SYMBOLS, word_sounds
from taste_min.recordings import Recording
from taste_min.systems import SYSTEMS, System
from taste_min.text import Word


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
