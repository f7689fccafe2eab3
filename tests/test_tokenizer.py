"""TASTE end to end: with random weights at tiny size, and on real speech."""

import pytest
import torch
from fake_taste import TEXT, speech, tiny_taste

from taste_min import assets
from taste_min.audio import SAMPLE_RATE, read_audio
from taste_min.config import mini
from taste_min.errors import TasteError
from taste_min.export import start_from_whisper, write_parts
from taste_min.flow import Flow
from taste_min.objectives import TokenizerObjective
from taste_min.tokenizer import Taste
from taste_min.unit_sampling import Sampling
from taste_min.units import MiniUnits, cepstra
from taste_min.vocoder import Vocoder


@pytest.fixture(scope="module")
def tiny() -> Taste:
    return tiny_taste()


def test_tokens_hold_words_codes_and_the_speaker(tiny):
    tokens = tiny.encode(speech())
    assert tokens.text == TEXT and [word.text for word in tokens.words] == TEXT.split()
    assert tokens.codes.shape == (4, 4) and tokens.embeddings.shape == (4, 32)
    torch.testing.assert_close(tiny.quantizer.decode(tokens.codes), tokens.embeddings)
    assert tokens.n_text_tokens == len(TEXT) + 1  # a letter is a token, every word brings a space
    assert tokens.seconds == 1.0
    torch.testing.assert_close(tokens.speaker_embedding, tiny.speaker_encoder.speaker_embedding(speech()))
    assert not torch.equal(tokens.speaker_embedding, tiny.encode(speech(seed=1)).speaker_embedding)


def test_a_given_text_replaces_the_recognised_one(tiny):
    assert tiny.encode(speech(), "more tea").text == "more tea"


def test_continuous_embeddings_are_not_those_of_the_codes(tiny):
    quantized, continuous = tiny.encode(speech()), tiny.encode(speech(), quantize=False)
    assert torch.equal(quantized.codes, continuous.codes)
    assert not torch.allclose(quantized.embeddings, continuous.embeddings, atol=1e-2)
    vectors = tiny.look_inside(speech(), TEXT).aggregator.pooled
    assert torch.equal(continuous.embeddings[0], vectors[0, 0])
    without = tiny_taste()
    without.quantizer = None
    assert torch.equal(without.encode(speech(), quantize=False).embeddings, continuous.embeddings)
    assert (without.encode(speech(), quantize=False).codes == -1).all()


def test_trimmed_keys_end_with_the_recording(tiny):
    wav = speech(1.01)[:-1]  # 50.5 frames
    everywhere = tiny.look_inside(wav, TEXT).aggregator.cross_attention
    assert (everywhere[..., 51:] > 0).all()
    trimmed = tiny_taste()
    trimmed.trim_keys = True
    attention = trimmed.look_inside(wav, TEXT).aggregator.cross_attention
    assert (attention[..., 51:] == 0).all() and (attention[..., :51] > 0).all()
    assert not torch.allclose(
        trimmed.encode(wav, quantize=False).embeddings, tiny.encode(wav, quantize=False).embeddings
    )


def test_long_recordings_keep_one_speaker(tiny):
    wav = torch.cat([speech(20.0), torch.zeros(SAMPLE_RATE), speech(20.0)])
    tokens = tiny.encode(wav)
    assert tokens.text == f"{TEXT} {TEXT}" and tokens.words[-1].end > 40
    assert tokens.speaker_embedding.shape == (256,)
    assert tokens.speaker_embedding.norm() == pytest.approx(1)
    with pytest.raises(TasteError, match="at most 30 s"):
        tiny.encode(wav, TEXT)


def test_windows_are_encoded_apart_and_silence_takes_time(tiny):
    tokens = tiny.encode_windows(iter((speech(2.0), torch.zeros(3 * SAMPLE_RATE), speech(1.0))))
    alone = [tiny.encode(speech(seconds)) for seconds in (2.0, 1.0)]
    assert tokens.seconds == 6.0
    assert [w.start for w in tokens.words] == [w.start for w in alone[0].words] + [5 + w.start for w in alone[1].words]
    assert torch.equal(tokens.codes, torch.cat([part.codes for part in alone]))
    assert torch.equal(tokens.embeddings, torch.cat([part.embeddings for part in alone]))
    with pytest.raises(TasteError, match="no words"):
        tiny.encode_windows([torch.zeros(SAMPLE_RATE)])


def test_unknown_model_names_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(TasteError, match="no pretrained model"):
        Taste.from_pretrained("other")
    with pytest.raises(TasteError, match="holds no parts"):
        Taste.from_pretrained(tmp_path)


@pytest.fixture(scope="session")
def folder(made_once):
    """Untrained parts of the mini preset, as training would export them."""
    return made_once("parts", write_untrained)


def write_untrained(folder):
    config = mini()
    torch.manual_seed(0)
    baseline = TokenizerObjective(config, audio=False, quantize=False)
    objective = TokenizerObjective(config, audio=True, quantize=True)
    with torch.no_grad():
        for model in (baseline, objective):
            start_from_whisper(model)
        for layer in objective.quantizer.layers:
            layer.embed.normal_()
            layer.initted.fill_(1)
    parts = {**objective.exports(), "text_only": baseline.unit_decoder}
    write_parts(folder, {**parts, "flow": Flow(config.flow), "vocoder": Vocoder(config.vocoder)})
    centroids = torch.randn(config.flow.n_units, 39)
    MiniUnits(cepstra, torch.zeros(39), torch.eye(39), centroids).save(folder / "units.safetensors")


@pytest.mark.assets
def test_a_folder_of_exported_parts_is_a_model(folder, clip):
    model = Taste.from_pretrained(folder)
    assert model.trim_keys
    table = model.recognizer.whisper.model.decoder.embed_tokens.weight
    assert torch.equal(model.aggregator.embed_tokens.weight, table)  # not in the file
    for part in (model.unit_decoder, model.text_only_decoder):
        assert part.reader.tokenizer is model.tokenizer  # nor is what the tokens spell
    tokens = model.encode(clip[:SAMPLE_RATE], "he was not")
    few = Sampling(max_units=10)
    for text_only in (False, True):
        decoded = model.decode(tokens, text_only=text_only, sampling=few, n_timesteps=1)
        assert len(decoded.wav) == 256 * decoded.mel.shape[1]
    assert model.unit_ids(clip[:SAMPLE_RATE]).shape == (50,)


@pytest.mark.assets
def test_a_folder_holds_what_it_holds(folder, tmp_path, clip):
    for name in ("flow", "units"):
        (tmp_path / f"{name}.safetensors").symlink_to(folder / f"{name}.safetensors")
    model = Taste.from_pretrained(str(tmp_path))
    assert not model.trim_keys and model.flow is not None
    with pytest.raises(TasteError, match="has no vocoder"):
        model.synthesize(model.unit_ids(clip), torch.ones(256), n_timesteps=1)
    (tmp_path / "units.safetensors").unlink()
    MiniUnits(cepstra, torch.zeros(39), torch.eye(39), torch.randn(7, 39)).save(tmp_path / "units.safetensors")
    with pytest.raises(TasteError, match="has 7 units"):
        Taste.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return read_audio(sorted(assets.fetch("librivox").glob("*.wav"))[1])


@pytest.fixture(scope="module")
def tokens(mini_taste, clip):
    return mini_taste.encode(clip)


@pytest.mark.assets
def test_one_row_of_codes_per_word(mini_taste, clip, tokens):
    assert tokens.codes.shape == (len(tokens.words), 4)
    assert tokens.text.split() == [word.text for word in tokens.words]
    assert ((tokens.codes >= 0) & (tokens.codes < 512)).all()
    torch.testing.assert_close(mini_taste.quantizer.decode(tokens.codes), tokens.embeddings, atol=1e-4, rtol=1e-4)
    assert torch.equal(mini_taste.encode(clip).codes, tokens.codes)


@pytest.mark.assets
def test_codes_carry_more_than_the_text(mini_taste, clip, tokens):
    """The same words at another speed (and pitch: the recording is stretched) give other codes."""
    slow = torch.nn.functional.interpolate(clip[None, None], scale_factor=1.25, mode="linear")[0, 0]
    slowly = mini_taste.encode(slow, tokens.text)
    assert slowly.text == tokens.text and not torch.equal(slowly.codes, tokens.codes)


@pytest.mark.assets
def test_the_quantizer_sees_different_words(tokens):
    codes = tokens.codes
    assert len({tuple(row.tolist()) for row in codes}) > len(codes) // 2


@pytest.mark.assets
def test_long_recordings_are_encoded_window_by_window(mini_taste, clip):
    wav = torch.cat([clip, torch.zeros(28 * SAMPLE_RATE), clip])
    tokens = mini_taste.encode(wav)
    assert len(wav) > 30 * SAMPLE_RATE
    assert tokens.codes.shape[0] == len(tokens.words) == len(tokens.text.split())
    assert tokens.words[-1].start > 30
    with pytest.raises(TasteError, match="at most 30 s"):
        mini_taste.encode(wav, tokens.text)


@pytest.mark.assets
def test_no_words(mini_taste, clip):
    with pytest.raises(TasteError, match="no words"):
        mini_taste.encode(clip, "  ")
    with pytest.raises(TasteError, match="silent"):
        mini_taste.encode(torch.zeros(SAMPLE_RATE))
