"""The aggregator: causality, masking, word pooling, attention maps, and equality with transformers' Whisper decoder."""

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from taste_min.aggregator import Aggregator, pool_words
from taste_min.config import tiny
from taste_min.errors import TasteError

CONFIG = tiny().aggregator
T = 20


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return {
        "token_ids": torch.randint(0, 90, (2, 6)),
        "word_ids": torch.tensor([[0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 0, 0]]),
        "lengths": torch.tensor([6, 3]),
        "keys": torch.randn(2, T, 32),
        "values": torch.randn(2, T, 32),
    }


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Aggregator(CONFIG).eval()


def test_same_numbers_as_transformers_whisper_decoder():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=100, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_target_positions=64, pad_token_id=99,
        bos_token_id=98, eos_token_id=98, decoder_start_token_id=97, num_mel_bins=8, max_source_positions=50,
    )  # fmt: skip
    decoder = WhisperForConditionalGeneration(config).eval().model.decoder
    ours = Aggregator(CONFIG).load_whisper_decoder(decoder, identity_values=False).eval()
    text, states = torch.randint(0, 90, (2, 7)), torch.randn(2, T, 32)
    prefix = torch.tensor(CONFIG.prefix).expand(2, -1)
    with torch.no_grad():
        theirs = decoder(input_ids=torch.cat([prefix, text], 1), encoder_hidden_states=states).last_hidden_state[:, 2:]
        same = ours(text, torch.arange(7).expand(2, -1), torch.tensor([7, 7]), states, states)
        torch.testing.assert_close(same.hidden_states, theirs, atol=1e-5, rtol=0)
        other_values = ours(text, torch.arange(7).expand(2, -1), torch.tensor([7, 7]), states, states + 0.5)
    assert (other_values.hidden_states - theirs).abs().max() > 1e-2  # values matter, so the equality above can fail


def test_identity_value_projection_passes_values_through():
    config = WhisperConfig(
        vocab_size=100, d_model=32, decoder_layers=2, encoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64,
        encoder_attention_heads=4, encoder_ffn_dim=64, max_target_positions=64, pad_token_id=99,
        bos_token_id=98, eos_token_id=98, decoder_start_token_id=97,
    )  # fmt: skip
    decoder = WhisperForConditionalGeneration(config).model.decoder
    layer = Aggregator(CONFIG).load_whisper_decoder(decoder).layers[0].encoder_attn
    x = torch.randn(1, 3, 32)
    torch.testing.assert_close(layer.v_proj(x), x)
    assert torch.equal(layer.k_proj.weight, decoder.layers[0].encoder_attn.k_proj.weight)


def test_causal_and_blind_to_padding(model, inputs):
    before = model(**inputs).pooled
    changed = inputs | {"token_ids": inputs["token_ids"].clone(), "word_ids": inputs["word_ids"].clone()}
    changed["token_ids"][1, 3:] = 7
    changed["word_ids"][1, 3:] = 1
    after = model(**changed).pooled
    torch.testing.assert_close(after[1, :3], before[1, :3])
    changed["token_ids"][0, 5] = 8  # last token of the last word
    last = model(**changed)
    torch.testing.assert_close(last.hidden_states[0, :5], model(**inputs).hidden_states[0, :5])
    torch.testing.assert_close(last.pooled[0, :3], before[0, :3])
    assert not torch.allclose(last.pooled[0, 3:], before[0, 3:])


def test_batch_equals_one_by_one(model, inputs):
    together = model(**inputs).pooled
    alone = model(**{key: value[1:, :3] if key.endswith("ids") else value[1:] for key, value in inputs.items()}).pooled
    torch.testing.assert_close(together[1, :3], alone[0], atol=1e-6, rtol=1e-5)


def test_pooling_averages_words_and_leaves_padding_alone():
    x = torch.arange(12.0).reshape(1, 6, 2)
    pooled = pool_words(x, torch.tensor([[0, 0, 1, 1, 1, 0]]), torch.tensor([5]))
    torch.testing.assert_close(pooled[0, 0], x[0, :2].mean(0))
    torch.testing.assert_close(pooled[0, 1], pooled[0, 0])
    torch.testing.assert_close(pooled[0, 4], x[0, 2:5].mean(0))
    torch.testing.assert_close(pooled[0, 5], x[0, 5])


def test_one_word_in_a_padded_batch_is_pooled_over_its_own_tokens():
    """The original merges the padding (word id 0) with word 0 here; reference: its sequence averaging."""
    x = torch.randn(2, 4, 3)
    word_ids, lengths = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]]), torch.tensor([3, 4])
    pooled = pool_words(x, word_ids, lengths)
    torch.testing.assert_close(pooled[0, :3], x[0, :3].mean(0).expand(3, -1))
    torch.testing.assert_close(pooled[1], x[1])  # words of one token
    assert not torch.allclose(pooled[0, 0], x[0].mean(0))  # what merging with the padding would give


def test_attention_maps_are_probabilities_and_cost_no_accuracy(model, inputs):
    with_maps, without = model(**inputs, need_attention=True), model(**inputs)
    assert with_maps.cross_attention.shape == (2, 2, 4, 6, T)  # (B, L, H, N, T)
    torch.testing.assert_close(with_maps.cross_attention.sum(-1), torch.ones(2, 2, 4, 6))
    assert without.cross_attention is None
    torch.testing.assert_close(with_maps.pooled, without.pooled, atol=1e-5, rtol=1e-4)


def test_keys_decide_where_and_values_what(model, inputs):
    maps = model(**inputs, need_attention=True).cross_attention
    other_values = model(**inputs | {"values": torch.randn(2, T, 32)}, need_attention=True).cross_attention
    other_keys = model(**inputs | {"keys": torch.randn(2, T, 32)}, need_attention=True).cross_attention
    torch.testing.assert_close(other_values[:, 0], maps[:, 0])  # first layer: values cannot have acted yet
    assert not torch.allclose(other_keys[:, 0], maps[:, 0], atol=1e-4)


def test_too_long_text_is_refused(model, inputs):
    ids = torch.zeros(2, 62, dtype=torch.long)
    with pytest.raises(TasteError, match="the limit is 61"):
        model(ids, ids, torch.tensor([62, 62]), inputs["keys"], inputs["values"])
