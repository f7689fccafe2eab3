"""The comparison models on random weights in the published formats: units, orders of tokens, losses, messages."""

import json

import numpy as np
import pytest
import torch
import yaml
from experiments.speech_lms import HubertUnits, LinearQuantizer, PitchTokens, SpiritLm, StyleTokens, Twist, mean_nats
from fake_taste import speech
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    HubertConfig,
    HubertModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from taste_min.errors import TasteError

K = 11  # units
WAV2VEC = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WAV2VEC |= {"conv_dim": (8, 8), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4}
WAV2VEC |= {"num_conv_pos_embedding_groups": 2}
LLAMA = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WAV = speech(2.5)


@pytest.fixture(scope="module")
def units_folder(tmp_path_factory):
    """HuBERT with one unit per 640 samples."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(HubertConfig(**WAV2VEC, conv_kernel=(64, 20), conv_stride=(32, 20))).save_pretrained(folder)
    np.save(folder / "kmeans.npy", np.random.default_rng(0).normal(size=(K, 16)))
    return folder


@pytest.fixture(scope="module")
def units(units_folder) -> HubertUnits:
    """With units that change, which those of a random network hardly do."""
    heard = HubertUnits.load(units_folder)
    heard.quantize = lambda hidden: torch.arange(len(hidden)) // 2 % K
    return heard


def test_units_are_the_nearest_centres_of_a_hubert_layer(units_folder):
    heard = HubertUnits.load(units_folder)
    found = heard(WAV)
    assert heard.n_units == K and len(found) == len(WAV) // 640 and found.max() < K
    hidden = heard.hubert(torch.nn.functional.pad(WAV, (40, 40))[None]).last_hidden_state[0]
    centres = torch.from_numpy(np.load(units_folder / "kmeans.npy")).float()
    assert torch.equal(found, (hidden[:, None] - centres).square().sum(-1).argmin(-1))


def test_the_linear_quantizer_of_spirit_lm_is_read(units_folder, tmp_path):
    folder = tmp_path / "linear"
    HubertModel.from_pretrained(units_folder).save_pretrained(folder)
    weights = nn.Sequential(
        nn.Linear(16, 15), nn.LeakyReLU(), nn.Linear(15, 14), nn.LeakyReLU(), nn.Linear(14, K + 1)
    ).state_dict()
    torch.save({"model_cfg": {"vocab_size": K}, "model_weight": weights}, folder / "quantizer.pt")
    heard = HubertUnits.load(folder)
    assert heard.n_units == K and (heard(WAV) < K).all()
    (folder / "quantizer.pt").unlink()
    with pytest.raises(TasteError, match=r"kmeans.npy .* or quantizer.pt"):
        HubertUnits.load(folder)


def test_a_blank_frame_has_the_unit_before_it():
    identity = {f"{i}.weight": torch.eye(3) for i in (0, 2, 4)} | {f"{i}.bias": torch.zeros(3) for i in (0, 2, 4)}
    quantizer = LinearQuantizer(identity)
    assert quantizer(torch.eye(3)[[1, 2, 2, 0, 2]]).tolist() == [1, 1, 1, 0, 0]
    with pytest.raises(TasteError, match="nothing but blanks"):
        quantizer(torch.eye(3)[[2, 2]])


def test_twist_reads_units_without_repeats_behind_its_offset(units, tmp_path):
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=K + 4, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1)
    config.num_attention_heads, config.offset = 2, 4
    OPTForCausalLM(config).save_pretrained(tmp_path)
    twist = Twist.load(tmp_path, units)
    ids = 4 + units(WAV).unique_consecutive()
    want = -twist.lm(ids[None]).logits[0, :-1].log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].mean()
    assert twist.loss(WAV) == pytest.approx(want.item(), rel=1e-5)
    for offset in (5, None):
        content = json.loads((tmp_path / "config.json").read_text()) | {"offset": offset}
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(TasteError, match="no TWIST model"):
            Twist.load(tmp_path, units)
    with pytest.raises(TasteError, match="too short"):
        mean_nats(twist.lm, ids[:1], given=1)


@pytest.fixture(scope="module")
def spirit_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("spirit")
    names = ["<unk>", "<s>", "hello", "there", "[Text]", "[Speech]", *(f"[Hu{i}]" for i in range(K))]
    names += [*(f"[Pi{i}]" for i in range(7)), *(f"[St{i}]" for i in range(5))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(names), **LLAMA)).save_pretrained(folder)
    return folder


def test_spirit_lm_reads_text_and_speech_after_their_marks(spirit_folder, units):
    spirit = SpiritLm.load(spirit_folder, units)
    sequence = spirit.sequence("hello there", WAV)
    names = spirit.tokenizer.convert_ids_to_tokens(sequence.tolist())
    assert names[:7] == ["<s>", "[Text]", "hello", "there", "[Speech]", "[Hu0]", "[Hu1]"]
    assert len(names) == 5 + len(units(WAV).unique_consecutive())
    spoken = spirit.sequence(WAV)
    logits = spirit.lm(spoken[None]).logits[0].log_softmax(-1)
    want = -logits[torch.arange(1, len(spoken) - 1), spoken[2:]].mean()  # without <s> and [Speech]
    assert spirit.loss(WAV) == pytest.approx(want.item(), rel=1e-5)
    with pytest.raises(TasteError, match=r"no \[Hu99\]"):
        spirit.ids(["[Hu99]"])


def test_the_expressive_one_orders_three_streams_by_time(spirit_folder):
    """The example of the published tokenizer."""
    streams = {"units": [7, 4, 8, 1, 3, 2], "pitch": [1, 1, 1, 1, 1, 3], "style": [4]}
    spirit = SpiritLm(None, None, *(lambda wav, v=v: torch.tensor(v) for v in streams.values()))
    spirit.units, spirit.pitch = (lambda wav: torch.tensor([7, 4, 8, 1, 3, 2])), (lambda wav: torch.tensor([1, 1, 3]))
    assert spirit.speech_tokens(WAV) == [
        "[St4]",
        "[Pi1]",
        "[Hu7]",
        "[Hu4]",
        "[Hu8]",
        "[Hu1]",
        "[Pi3]",
        "[Hu3]",
        "[Hu2]",
    ]


def pitch_network(width: int, depth: int, growth: int, down: int) -> nn.Sequential:
    """The encoder as the published code builds it, for stride 2."""

    class Residual(nn.Module):
        def __init__(self, dilation: int):
            super().__init__()
            wide = nn.Conv1d(width, width, 3, 1, dilation, dilation)
            self.model = nn.Sequential(nn.ReLU(), wide, nn.ReLU(), nn.Conv1d(width, width, 1))

        def forward(self, x):
            return x + self.model(x)

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(*(Residual(growth**j) for j in range(depth)))

        def forward(self, x):
            return self.model(x)

    blocks = [nn.Sequential(nn.Conv1d(width if i else 2, width, 4, 2, 1), Tower()) for i in range(down)]
    return nn.Sequential(*blocks, nn.Conv1d(width, 5, 3, 1, 1))


def test_pitch_tokens_are_the_codebook_entries_of_the_encoder(tmp_path):
    torch.manual_seed(0)
    network, codebook = pitch_network(6, 2, 3, 4), torch.randn(7, 5)
    weights = {f"encoder.level_blocks.0.model.{name}": w for name, w in network.state_dict().items()}
    torch.save({"model": weights | {"vq.level_blocks.0.k": codebook}}, tmp_path / "model.pt")
    sizes = {"downs_t": [4], "strides_t": [2], "depth": 2, "dilation_growth_rate": 3, "width": 6}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"encoder_params": sizes, "features": "norm_f0_interp,vuv"}))
    pitch = PitchTokens.load(tmp_path)
    x = torch.randn(1, 2, 160)
    want = (network(x)[0].T[:, None] - codebook).square().sum(-1).argmin(-1)
    assert torch.equal(pitch.quantize(x), want) and len(want) == 10
    assert len(pitch(WAV)) == (len(WAV) // 80 + 1) // 16  # 12.5 per second


def test_every_second_has_a_style(tmp_path):
    torch.manual_seed(0)
    config = Wav2Vec2Config(**WAV2VEC, conv_kernel=(64, 10), conv_stride=(32, 10), num_labels=5, classifier_proj_size=8)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path)
    styles = StyleTokens(tmp_path)(WAV)
    assert len(styles) == 3 and styles.max() < 5
    with pytest.raises(TasteError, match="holds no model"):
        StyleTokens(tmp_path / "nowhere")
