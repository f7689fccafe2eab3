"""From tokens to speech with random weights: what the result depends on, batches, long texts, missing parts."""

from dataclasses import replace

import pytest
import torch
from fake_taste import speech, tiny_config, tiny_taste, tokens_of

from taste_min import speech_decoder
from taste_min.errors import TasteError
from taste_min.speech_decoder import TASTE_SAMPLING, TEXT_ONLY_SAMPLING
from taste_min.unit_sampling import Sampling

GREEDY = Sampling(greedy=True, min_units=5, max_units=30)
SHORT = Sampling(max_units=25)
TOKENS = tokens_of("you like tea.")


@pytest.fixture(scope="module")
def taste():
    return tiny_taste()


@pytest.fixture(scope="module")
def decoded(taste):
    return taste.decode(TOKENS, sampling=SHORT, n_timesteps=2)


def test_sizes_and_rates_fit(taste, decoded):
    n_units, n_frames = len(decoded.units), decoded.mel.shape[1]
    assert decoded.sample_rate == 22050 and decoded.mel.shape[0] == 80
    assert n_frames == int(taste.flow.n_frames(torch.tensor(n_units)))
    assert decoded.wav.shape == (256 * n_frames,)
    assert len(decoded.wav) / 22050 == pytest.approx(n_units / 50, abs=0.02)
    assert torch.isfinite(decoded.wav).all()
    assert (decoded.units >= 0).all() and (decoded.units < 64).all()


def test_the_same_seed_gives_the_same_speech(taste, decoded):
    again = taste.decode(TOKENS, sampling=SHORT, n_timesteps=2)
    assert torch.equal(again.units, decoded.units) and torch.equal(again.wav, decoded.wav)
    other = taste.decode(TOKENS, sampling=SHORT, n_timesteps=2, seed=1)
    assert not torch.equal(other.units, decoded.units)
    greedy = [taste.decode(TOKENS, sampling=GREEDY, seed=seed, n_timesteps=2) for seed in (0, 1)]
    assert torch.equal(greedy[0].units, greedy[1].units)
    assert not torch.equal(greedy[0].mel, greedy[1].mel)  # the flow starts from other noise


def test_taste_hears_the_codes_and_text_only_does_not(taste):
    other = replace(TOKENS, embeddings=-TOKENS.embeddings)
    units = [taste.write_units([t], sampling=GREEDY)[0].units for t in (TOKENS, other)]
    assert not torch.equal(*units)
    units = [taste.write_units([t], text_only=True, sampling=GREEDY)[0].units for t in (TOKENS, other)]
    assert torch.equal(*units)


def test_text_only_uses_its_own_weights(taste):
    model = tiny_taste()
    with torch.no_grad():
        model.unit_decoder.llm_decoder.weight.zero_()
    for text_only in (False, True):
        units = [m.write_units([TOKENS], text_only=text_only, sampling=GREEDY)[0].units for m in (taste, model)]
        assert torch.equal(*units) is text_only


def test_every_token_of_a_word_gets_its_embedding(taste, monkeypatch):
    seen = {}

    def generate(ids, lengths, speaker, taste_embeddings, *rest):
        seen.update(ids=ids, lengths=lengths, taste=taste_embeddings)
        return type(taste.unit_decoder).generate(taste.unit_decoder, ids, lengths, speaker, taste_embeddings, *rest)

    monkeypatch.setattr(taste.unit_decoder, "generate", generate)
    taste.write_units([TOKENS, tokens_of("a")], sampling=GREEDY)
    assert seen["lengths"].tolist() == [2, 4 + 5 + 5]  # a letter is a token, every word brings a space
    rows = seen["taste"][1]
    assert torch.equal(rows, TOKENS.embeddings.repeat_interleave(torch.tensor([4, 5, 5]), dim=0))


def test_another_speaker_changes_the_mel(taste, decoded):
    other = torch.nn.functional.normalize(torch.randn(256, generator=torch.Generator().manual_seed(3)), dim=0)
    assert not torch.equal(taste.write_units([TOKENS], other, sampling=GREEDY)[0].units, decoded.units)
    mels = [taste.synthesize(decoded.units, s, n_timesteps=2).mel for s in (TOKENS.speaker_embedding, other)]
    assert mels[0].shape == mels[1].shape
    assert (mels[0] - mels[1]).abs().max() > 1e-3
    swapped = taste.decode(replace(TOKENS, speaker_embedding=other), sampling=SHORT, n_timesteps=2)
    given = taste.decode(TOKENS, other, sampling=SHORT, n_timesteps=2)
    assert torch.equal(swapped.wav, given.wav)


def test_many_at_once_are_what_each_is_alone(taste, monkeypatch):
    monkeypatch.setattr(speech_decoder, "BATCH", 2)
    many = [TOKENS, tokens_of("tea", seed=1), tokens_of("do you like some green tea", seed=2)]
    together = taste.decode_many(many, sampling=GREEDY, n_timesteps=2)
    for tokens, result in zip(many, together, strict=True):
        alone = taste.decode(tokens, sampling=GREEDY, n_timesteps=2)
        assert torch.equal(result.units, alone.units)
        assert result.ended == alone.ended
        torch.testing.assert_close(result.wav, alone.wav)
    assert taste.decode_many([]) == []


def test_a_model_that_reads_sounds_speaks_each_text_as_alone():
    config = tiny_config()
    taste = tiny_taste(config=replace(config, unit_decoder=replace(config.unit_decoder, pronounced=True)))
    many = [TOKENS, tokens_of("do you like some green tea", seed=2)]
    for text_only in (False, True):
        together = taste.write_units(many, text_only=text_only, sampling=GREEDY)
        for tokens, written in zip(many, together, strict=True):
            alone = taste.write_units([tokens], text_only=text_only, sampling=GREEDY)[0]
            n = int(alone.lengths[0])
            assert n and torch.equal(written.units[0, :n], alone.units[0])
    taste.text_only_decoder.place.affine.weight.data *= 30  # random weights hardly hear the text
    texts = ("you like tea.", "yew like tea.", "me like tea.")  # the first two sound alike
    units = [w.units for w in taste.write_units(list(map(tokens_of, texts)), text_only=True, sampling=GREEDY)]
    assert torch.equal(units[0], units[1]) and not torch.equal(units[0], units[2])


def test_long_texts_are_spoken_piece_by_piece(taste):
    first, second = tokens_of("do i.", seed=1), tokens_of("do you.", seed=2)
    joined = replace(
        tokens_of(f"{first.text} {second.text}", seconds=20.0),  # 5 s a word, and 12 s are one piece
        embeddings=torch.cat([first.embeddings, second.embeddings]),
        speaker_embedding=first.speaker_embedding,
    )
    whole = taste.decode(joined, sampling=GREEDY, n_timesteps=2)
    parts = [taste.decode(t, first.speaker_embedding, sampling=GREEDY, n_timesteps=2) for t in (first, second)]
    assert torch.equal(whole.units, torch.cat([part.units for part in parts]))
    torch.testing.assert_close(whole.wav, torch.cat([part.wav for part in parts]))
    assert len(whole.wav) == 256 * whole.mel.shape[1]


def test_speech_that_was_cut_says_so(taste):
    cut = taste.decode(TOKENS, sampling=Sampling(greedy=True, min_units=9, max_units=9), n_timesteps=1)
    assert not cut.ended and len(cut.units) == 9


def test_units_and_mel_alone(taste, decoded):
    again = taste.synthesize(decoded.units, TOKENS.speaker_embedding, n_timesteps=2)
    assert torch.equal(again.wav, decoded.wav)
    assert torch.equal(taste.vocode(decoded.mel), decoded.wav)
    assert not torch.equal(taste.vocode(decoded.mel, seed=1), decoded.wav)
    units = taste.unit_ids(speech(1.0))
    assert units.shape == (50,)
    topline = taste.synthesize(units, TOKENS.speaker_embedding, n_timesteps=1)
    assert torch.equal(topline.units, units)


def test_default_sampling_is_the_papers(taste, monkeypatch):
    assert (TASTE_SAMPLING.top_k, TEXT_ONLY_SAMPLING.top_k) == (10, 25)
    for text_only, name in ((False, "TASTE_SAMPLING"), (True, "TEXT_ONLY_SAMPLING")):
        monkeypatch.setattr(speech_decoder, name, Sampling(min_units=3, max_units=3))
        assert taste.write_units([TOKENS], text_only=text_only)[0].units.shape == (1, 3)


@pytest.mark.parametrize(
    "part, stage, act",
    [
        ("unit_decoder", "vq", lambda taste: taste.decode(TOKENS)),
        ("text_only_decoder", "text_only", lambda taste: taste.decode(TOKENS, text_only=True)),
        ("flow", "flow", lambda taste: taste.decode(TOKENS)),
        ("flow", "flow", lambda taste: taste.synthesize(torch.tensor([1, 2]), TOKENS.speaker_embedding)),
        ("vocoder", "vocoder", lambda taste: taste.decode(TOKENS)),
        ("vocoder", "vocoder", lambda taste: taste.vocode(torch.zeros(80, 4))),
        ("units", "units", lambda taste: taste.unit_ids(speech())),
        ("quantizer", "vq", lambda taste: taste.encode(speech())),
    ],
)
def test_a_missing_part_is_named_with_the_stage_that_makes_it(part, stage, act):
    taste = tiny_taste()
    setattr(taste, part, None)
    with pytest.raises(TasteError, match=f"has no {part.replace('_', ' ')};.*taste-min train {stage}`"):
        act(taste)


def test_tokens_units_and_speakers_of_another_model_are_refused(taste):
    with pytest.raises(TasteError, match="another model"):
        taste.decode(replace(TOKENS, embeddings=torch.zeros(3, 16)))
    with pytest.raises(TasteError, match="another model"):
        taste.synthesize(torch.tensor([64]), TOKENS.speaker_embedding)
    with pytest.raises(TasteError, match=r"shape \(256,\), got \(192,\)"):
        taste.decode(TOKENS, torch.zeros(192))
    with pytest.raises(TasteError, match="no units"):
        taste.synthesize(torch.tensor([], dtype=torch.long), TOKENS.speaker_embedding)
    with pytest.raises(TasteError, match="no words"):
        empty = {"words": [], "codes": TOKENS.codes[:0], "embeddings": TOKENS.embeddings[:0]}
        taste.decode(replace(TOKENS, **empty))
