"""Every peer codes and decodes: Opus and Codec2 for real, the neural ones with tiny random weights loaded from disk."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from taste_min import peers
from taste_min.audio import SAMPLE_RATE
from taste_min.clips import SAMPLES
from taste_min.errors import TasteError
from taste_min.peers import Neural, load_peer, ogg_packets
from taste_min.recordings import read_recordings
from taste_min.systems import System


@pytest.fixture(scope="module")
def recording():
    return read_recordings(str(SAMPLES / "manifest.tsv"), limit=1)[0]


@pytest.fixture(scope="module")
def wav(recording):
    return recording.load()


def envelope(wav, rate):
    """Loudness every 40 ms."""
    size = rate // 25
    return wav[: len(wav) // size * size].reshape(-1, size).square().mean(dim=1).sqrt()


@pytest.mark.parametrize(("name", "low", "high"), [("opus", 3000, 9000), ("opus:24000", 15_000, 33_000)])
def test_opus(name, low, high, wav):
    heard, rate, bits = load_peer(name)(wav)
    assert rate == SAMPLE_RATE and len(heard) == len(wav)
    assert low < bits / (len(wav) / SAMPLE_RATE) < high
    both = torch.stack([envelope(wav, SAMPLE_RATE), envelope(heard, SAMPLE_RATE)])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_more_bits_come_closer(wav):
    errors = [(load_peer(f"opus:{bits}")(wav)[0] - wav).square().mean() for bits in (6000, 64_000)]
    assert errors[1] < errors[0] / 4


def test_ogg_packets():
    page = b"OggS" + bytes(22)
    first = page + bytes([3, 255, 10, 5]) + bytes(270)  # a packet of 265 bytes and one of 5
    second = page + bytes([2, 255, 255]) + bytes(510)  # a packet that goes on
    third = page + bytes([1, 0])  # and ends with an empty segment
    assert ogg_packets(first + second + third) == [265, 5, 510]
    for bad in (b"RIFF" + bytes(40), page[:20]):
        with pytest.raises(TasteError, match="no Ogg stream"):
            ogg_packets(bad)


@pytest.mark.parametrize(("name", "bits_per_second"), [("codec2", 700), ("codec2:3200", 3200)])
def test_codec2(name, bits_per_second, wav):
    pytest.importorskip("pycodec2", reason="pycodec2 is not installed")
    peer = load_peer(name)
    heard, rate, bits = peer(wav)
    assert rate == 8000 and len(heard) == pytest.approx(len(wav) / 2, abs=1)
    assert bits / (len(wav) / SAMPLE_RATE) == pytest.approx(bits_per_second, rel=0.03)
    said, loud = envelope(wav, SAMPLE_RATE), envelope(heard, 8000)
    late = [torch.corrcoef(torch.stack([said[: len(loud) - k], loud[k:]]))[0, 1] for k in (0, 1)]
    assert max(late) > 0.6  # a parametric codec may lag by a frame
    again = peer(wav)[0]  # noise is drawn anew, but nothing else is left over from the recording before
    assert torch.corrcoef(torch.stack([envelope(again, 8000), envelope(heard, 8000)]))[0, 1] > 0.99


def tiny(kind):
    import transformers

    torch.manual_seed(0)
    if kind == "encodec":
        config = transformers.EncodecConfig(
            num_filters=4, hidden_size=8, codebook_size=1024, num_lstm_layers=1, target_bandwidths=[0.75, 1.5, 3.0]
        )  # 75 frames of 10 bits: one, two and four codebooks
        model = transformers.EncodecModel(config)
        layers = [layer.codebook.embed for layer in model.quantizer.layers]
    elif kind == "mimi":
        config = transformers.MimiConfig(
            num_filters=4,
            hidden_size=32,
            codebook_size=16,
            codebook_dim=8,
            vector_quantization_hidden_dimension=8,
            num_quantizers=4,
            upsample_groups=32,
            num_hidden_layers=1,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        model = transformers.MimiModel(config)
        layers = []
        for part in (
            model.quantizer.semantic_residual_vector_quantizer,
            model.quantizer.acoustic_residual_vector_quantizer,
        ):
            layers += [layer.codebook.embed_sum for layer in part.layers]
    else:
        config = transformers.DacConfig(
            encoder_hidden_size=4, decoder_hidden_size=64, n_codebooks=4, codebook_size=16, codebook_dim=4
        )
        model, layers = transformers.DacModel(config), []
    for codebook in layers:
        torch.nn.init.normal_(codebook)
    return model


@pytest.mark.parametrize(("kind", "frames_per_second"), [("encodec", 75), ("mimi", 12.5), ("dac", 31.25)])
def test_neural_peers_load_from_a_folder_and_pay_for_their_codes(kind, frames_per_second, wav, tmp_path):
    model = tiny(kind)
    model.save_pretrained(tmp_path)
    wav = wav[:SAMPLE_RATE]
    bits = {}
    for n in (1, 2, 4):
        peer = load_peer(f"{kind}:{n}", str(tmp_path))
        heard, rate, bits[n] = peer(wav)
        assert rate == model.config.sampling_rate and torch.isfinite(heard).all()
        assert len(heard) / rate == pytest.approx(1, abs=0.01)
    assert bits[1] == pytest.approx(math.log2(model.config.codebook_size) * frames_per_second, rel=0.1)
    assert (bits[2], bits[4]) == (2 * bits[1], 4 * bits[1])
    own = torch.randn(model.config.sampling_rate, generator=torch.Generator().manual_seed(0)) / 10
    codes = [load_peer(f"{kind}:{n}", str(tmp_path)).encode(own) for n in (2, 4)]
    assert torch.equal(codes[0], codes[1][:2])  # residual: the first codebooks are the same
    assert not torch.allclose(peer.decode(codes[0]), peer.decode(codes[1]))
    with pytest.raises(TasteError, match="1 to 4 codebooks, not 9"):
        load_peer(f"{kind}:9", str(tmp_path))(wav)


def test_weights_that_are_not_whole_or_not_there(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny("dac").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(dict(list(weights.items())[5:]), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TasteError, match="parts of it are missing"):
        load_peer("dac", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TasteError, match="weights of mimi cannot be had"):
        load_peer("mimi", str(tmp_path / "empty"))
    stereo = tiny("encodec")
    stereo.config.audio_channels = 2
    with pytest.raises(TasteError, match="one channel"):
        Neural(stereo, 1)


def test_speechtokenizer_through_an_interface_like_that_of_its_package(tmp_path, wav, monkeypatch):
    """A stand-in with the documented calls of the package, which need not be installed."""

    class SpeechTokenizer(torch.nn.Module):
        @classmethod
        def load_from_checkpoint(cls, config, weights):
            assert json.loads(Path(config).read_text())["sample_rate"] == 16_000 and weights.endswith(".pt")
            return cls()

        def encode(self, x, n_q=None, st=None):
            assert x.ndim == 3
            frames = torch.arange(x.shape[-1] // 320)
            return torch.stack([(frames + k) % 1024 for k in range(8)])[:, None]  # (n_q, B, T)

        def decode(self, codes, st=0):
            return codes.sum(dim=0).repeat_interleave(320, dim=-1)[:, None].float()

    package = ModuleType("speechtokenizer")
    package.SpeechTokenizer = SpeechTokenizer
    monkeypatch.setitem(sys.modules, "speechtokenizer", package)
    with pytest.raises(TasteError, match="config.json and SpeechTokenizer.pt"):
        load_peer("speechtokenizer", str(tmp_path))
    (tmp_path / "avg").mkdir()
    (tmp_path / "avg" / "config.json").write_text('{"sample_rate": 16000, "codebook_size": 1024}')
    (tmp_path / "avg" / "SpeechTokenizer.pt").write_bytes(b"")
    heard, rate, bits = load_peer("speechtokenizer:2", str(tmp_path))(wav)
    assert rate == SAMPLE_RATE and bits == len(wav) // 320 * 2 * 10 and len(heard) <= len(wav)
    with pytest.raises(TasteError, match="1 to 8 codebooks"):
        load_peer("speechtokenizer:9", str(tmp_path))(wav)


def test_speechtokenizer_with_tiny_random_weights(tmp_path, wav):
    reason = "speechtokenizer or what it imports is not installed"
    package = pytest.importorskip("speechtokenizer", reason=reason, exc_type=ImportError)
    config = {"sample_rate": 16_000, "strides": [8, 5, 4, 2], "n_q": 4, "codebook_size": 16, "activation": "ELU"}
    config |= {"n_filters": 2, "dimension": 32, "semantic_dimension": 24, "lstm_layers": 1, "bidirectional": True}
    config |= {"dilation_base": 2, "residual_kernel_size": 3, "n_residual_layers": 1}
    torch.manual_seed(0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(package.SpeechTokenizer(config).state_dict(), tmp_path / "SpeechTokenizer.pt")
    for n in (1, 4):
        heard, rate, bits = load_peer(f"speechtokenizer:{n}", str(tmp_path))(wav)
        assert rate == SAMPLE_RATE and len(heard) == len(wav) and torch.isfinite(heard).all()
        assert bits == math.ceil(len(wav) / 320) * n * 4


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("opus:5999", None, "opus takes 6000"),
        ("codec2:800", None, "codec2 takes 700"),
        ("opus", "folder", "has no weights"),
        ("opus:fast", None, "no peer 'opus:fast'"),
        ("mp3", None, "no peer 'mp3'"),
        ("speechtokenizer", None, "config.json and SpeechTokenizer.pt"),
    ],
)
def test_mistakes(name, weights, message):
    with pytest.raises(TasteError, match=message):
        load_peer(name, weights)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pycodec2", None)
    monkeypatch.setitem(sys.modules, "speechtokenizer", None)
    for name, weights in (("codec2", None), ("speechtokenizer", str(tmp_path))):
        with pytest.raises(TasteError, match=f"{name} needs"):
            load_peer(name, weights)


def test_a_peer_is_a_system(recording):
    spoken = System.load("opus").speak([recording])[0]
    assert spoken.sample_rate == SAMPLE_RATE and spoken.bits > 0 and spoken.ended
    with pytest.raises(TasteError, match="choose from .*opus"):
        System.load("flac")
    assert set(peers.PEERS) == {"opus", "codec2", "encodec", "mimi", "dac", "speechtokenizer"}
