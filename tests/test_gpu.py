"""On a GPU: every part gives in float32 what it gives on the CPU, which is at parity with the golden tensors, and in
bfloat16 the same choices nearly always."""

import copy

import pytest
import torch
from fake_taste import tiny_taste, tokens_of

from taste_min.config import taslm_tiny
from taste_min.quantizer import ResidualVQ
from taste_min.taslm import Taslm
from taste_min.taslm_layout import collate
from taste_min.unit_sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
GREEDY = Sampling(greedy=True, min_units=40, max_units=40)


@pytest.fixture(autouse=True)
def exact_products():
    with torch.backends.cudnn.flags(allow_tf32=False):  # of matrix products that is the default
        yield


@pytest.fixture
def pair():
    taste = tiny_taste()
    return taste, copy.deepcopy(taste).to("cuda")


def text():
    torch.manual_seed(1)
    ids, words, lengths = torch.randint(0, 26, (2, 9)), torch.arange(9).repeat(2, 1) // 2, torch.tensor([9, 7])
    return ids, words, lengths, torch.randn(2, 9, 32), torch.randn(2, 256)


@torch.no_grad()
def tower(taste, device):
    ids, words, lengths, _, _ = (tensor.to(device) for tensor in text())
    mel = torch.randn(2, 8, 3000, generator=torch.Generator().manual_seed(0)).to(device)
    states = taste.encoder(mel)
    pooled = taste.aggregator(ids, words, lengths, states.last, states.shallow).pooled
    return states.last, pooled, taste.quantizer(pooled).codes


@torch.no_grad()
def teacher_forced(taste, device):
    ids, _, lengths, embeddings, speakers = (tensor.to(device) for tensor in text())
    units = torch.arange(40, device=device).repeat(2, 1)
    return taste.unit_decoder(ids, lengths, units, lengths.new_tensor([40, 31]), speakers, embeddings).logits


def test_the_encoder_half_in_float32(pair):
    (last, pooled, codes), there = tower(pair[0], "cpu"), tower(pair[1], "cuda")
    torch.testing.assert_close(there[0].cpu(), last, **CLOSE)
    torch.testing.assert_close(there[1].cpu()[:1], pooled[:1], **CLOSE)
    assert (there[2].cpu()[0] == codes[0]).float().mean() > 0.95  # two entries may be as near as rounding


def test_the_unit_decoder_in_float32(pair):
    torch.testing.assert_close(
        teacher_forced(pair[1], "cuda")[0].cpu(), teacher_forced(pair[0], "cpu")[0], atol=1e-3, rtol=1e-3
    )


@torch.no_grad()
def test_flow_and_vocoder_in_float32(pair):
    units, lengths = torch.arange(60)[None] % 64, torch.tensor([60])
    speaker, noise = torch.randn(1, 256), torch.randn(1, 80, 103)
    phase, hiss = torch.rand(1, 9, 1), torch.randn(1, 9, 103 * 256)
    mels = [
        model.flow.generate(units.to(device), lengths.to(device), speaker.to(device), noise.to(device)).mel
        for model, device in zip(pair, ("cpu", "cuda"), strict=True)
    ]
    torch.testing.assert_close(mels[1].cpu(), mels[0], atol=1e-3, rtol=1e-3)
    wavs = [
        model.vocoder(mels[0].to(device), phase=phase.to(device), noise=hiss.to(device)).wav
        for model, device in zip(pair, ("cpu", "cuda"), strict=True)
    ]
    torch.testing.assert_close(wavs[1].cpu(), wavs[0], atol=1e-3, rtol=1e-3)


def test_a_whole_decode(pair):
    tokens = tokens_of("you like some tea")
    here, there = (model.decode(tokens, sampling=GREEDY) for model in pair)
    assert (here.units == there.units).float().mean() > 0.9
    assert there.wav.isfinite().all()


def test_bfloat16_makes_nearly_the_same_choices(pair):
    exact = teacher_forced(pair[1], "cuda").argmax(-1)
    with torch.autocast("cuda", torch.bfloat16):
        near = teacher_forced(pair[1], "cuda").argmax(-1)
        codes = tower(pair[1], "cuda")[2]
    assert (exact == near).float().mean() > 0.8
    assert (codes == tower(pair[1], "cuda")[2]).float().mean() > 0.8
    assert (exact == exact.roll(1, dims=1)).float().mean() < 0.8  # choices differ from place to place


@torch.no_grad()
def test_the_joint_model_in_float32():
    torch.manual_seed(0)
    config = taslm_tiny()
    quantizer = ResidualVQ(config.rvq).train()
    quantizer(torch.randn(4, 30, config.rvq.d_model))
    model = Taslm(config, quantizer.eval()).eval()
    laid = model.layout(torch.arange(12), torch.arange(12) // 2, torch.randint(0, 24, (6, 4)))
    batch = collate([laid])
    there = copy.deepcopy(model).to("cuda")(batch.to("cuda"))
    torch.testing.assert_close(there.text_logits.cpu(), model(batch).text_logits, atol=1e-3, rtol=1e-3)
    assert float(there.loss) == pytest.approx(float(model(batch).loss), rel=1e-3)
