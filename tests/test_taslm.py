"""Properties of the joint language model: what may influence what, the losses, precision, and the released sizes."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from taste_min import parity_taslm, taslm_layout
from taste_min.config import TaslmConfig, taslm_mini, taslm_paper, taslm_tiny
from taste_min.errors import TasteError
from taste_min.golden import load_golden
from taste_min.llama import build_llm, text_logits
from taste_min.quantizer import ResidualVQ
from taste_min.taslm import EmbeddingHead, HeadOutput, Taslm, TokenHead, rename_original

HEADS = ["embedding", "token", "token_soft"]


def make(seed: int = 0, **changes) -> Taslm:
    """A tiny model in eval mode in which LoRA, padding embeddings and codebooks all matter."""
    torch.manual_seed(seed)
    config = replace(taslm_tiny(), **changes)
    quantizer = ResidualVQ(config.rvq).train()
    quantizer(torch.randn(4, 30, config.rvq.d_model))
    model = Taslm(config, quantizer).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "pad_" in name or "embed_tokens" in name:
                parameter.normal_(std=0.3)
        model.fuse.weights.zero_()  # both sides weigh the same
        if config.head == "embedding":
            model.head.log_variance.normal_(std=0.3)
    return model


def utterance(words, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, 100, (len(words),), generator=generator)
    return token_ids, torch.tensor(words), torch.randint(0, 24, (max(words) + 1, 4), generator=generator)


def batch_of(model: Taslm, *utterances):
    return taslm_layout.collate([model.layout(*one) for one in utterances])


LONG, SHORT = utterance([0, 0, 1, 2, 2, 3], 1), utterance([0, 1, 1], 2)


@pytest.mark.parametrize("head", HEADS)
def test_a_word_reaches_the_speech_side_one_word_late_and_never_earlier(head):
    model = make(head=head)
    token_ids, word_ids, codes = LONG
    changed = codes.clone()
    changed[1] = (codes[1] + 5) % 24
    before, after = (model(batch_of(model, (token_ids, word_ids, c))).text_logits[0] for c in (codes, changed))
    # word 1 is token 2; it enters with word 2, tokens 3 and 4, at positions 4 and 5
    assert torch.equal(before[:4], after[:4])
    assert ((before - after)[4:].abs().amax(-1) > 1e-4).all()


def test_a_token_cannot_see_the_tokens_after_it():
    model = make()
    token_ids, word_ids, codes = LONG
    changed = token_ids.clone()
    changed[3] = (changed[3] + 1) % 100
    before, after = (model(batch_of(model, (ids, word_ids, codes))) for ids in (token_ids, changed))
    assert torch.equal(before.text_logits[0, :4], after.text_logits[0, :4])  # positions 0..3: sos and tokens 0..2
    assert torch.equal(before.taste.mean[0, :4], after.taste.mean[0, :4])
    assert ((before.text_logits - after.text_logits)[0, 4:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head):
    model = make(head=head)
    together = model(batch_of(model, LONG, SHORT))
    alone = model(batch_of(model, SHORT))
    torch.testing.assert_close(together.text_logits[1, :5], alone.text_logits[0], atol=1e-5, rtol=0)
    assert torch.equal(together.taste.codes[1, :5], alone.taste.codes[0])
    doubled = model(batch_of(model, SHORT, SHORT, LONG)), model(batch_of(model, SHORT, LONG, SHORT))
    torch.testing.assert_close(doubled[0].loss, doubled[1].loss)
    labels = batch_of(model, LONG, SHORT).text_labels
    defect = taslm_layout.collate([model.layout(*LONG), model.layout(*SHORT)], spurious_labels=True)
    assert not torch.equal(labels, defect.text_labels)
    assert abs(model(defect).text_ce - together.text_ce) > 1e-3


def test_the_start_token_is_not_fused_and_the_sum_starts_as_text():
    model = make()
    batch = batch_of(model, LONG)
    raw = model.llm.get_input_embeddings().weight[model.config.sos_id]
    inputs = model.embed_sequence(batch.token_ids, batch.codes)
    assert torch.equal(inputs[0, 0], raw)
    assert not torch.allclose(inputs[0, 1], model.embed_text(batch.token_ids)[0, 1], atol=1e-3)
    fresh = Taslm(taslm_tiny(), model.quantizer)
    shares = fresh.fuse.weights.softmax(0)
    torch.testing.assert_close(shares, torch.tensor([0.018, 0.982]), atol=1e-3, rtol=0)
    text, speech = torch.randn(3, 32), torch.randn(3, 32)
    expected = shares[0] * fresh.fuse.linear(speech) + shares[1] * text
    torch.testing.assert_close(fresh.fuse(text, speech), expected)


def test_pad_embeddings_stand_where_a_side_has_nothing():
    model = make()
    batch = batch_of(model, LONG)
    inputs = model.embed_sequence(batch.token_ids, batch.codes)
    text = model.embed_text(batch.token_ids)
    torch.testing.assert_close(inputs[0, 1], model.fuse(text[0, 1], model.pad_audio))
    last = model.quantizer.decode(LONG[2][-1])
    torch.testing.assert_close(inputs[0, -1], model.fuse(model.pad_text, last))


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_every_trained_tensor_and_no_frozen_one(head):
    model = make(head=head).train()
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(batch_of(model, LONG, SHORT)).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    targets = {name.split(".")[-4] for name in trained if "lora" in name}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    others = {name.split(".")[0] for name in trained if "lora" not in name}
    assert others == {"pad_text", "pad_audio", "fuse", "head"}
    assert all(torch.equal(frozen[name], tensor) for name, tensor in model.state_dict().items())  # codebooks too


@pytest.mark.parametrize("head", HEADS)
def test_it_can_learn(head):
    model = make(head=head, lora_dropout=0.0).train()
    batch = batch_of(model, LONG, SHORT)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = model(batch)
    for _ in range(80):
        optimizer.zero_grad()
        output = model(batch)
        output.loss.backward()
        optimizer.step()
    assert output.text_loss < 0.3 * first.text_loss
    assert output.taste_loss < 0.75 * first.taste_loss


def test_the_loss_is_the_documented_sum():
    model = make(text_weight=0.3, taste_weight=0.7, text_kl_share=0.8)
    batch = batch_of(model, LONG, SHORT)
    plain, reference = model(batch), model.reference_logits(batch)
    assert plain.text_kl is None
    torch.testing.assert_close(plain.loss, 0.3 * plain.text_ce + 0.7 * plain.taste_loss)
    output = model(batch, reference)
    torch.testing.assert_close(output.text_loss, 0.8 * output.text_kl + 0.2 * output.text_ce)
    kls = []
    for b, n in ((0, 6), (1, 3)):
        p, q = reference[b, :n].log_softmax(-1), output.text_logits[b, :n].log_softmax(-1)
        kls.append((p.exp() * (p - q)).sum(-1))
    torch.testing.assert_close(output.text_kl, torch.cat(kls).mean())
    torch.testing.assert_close(model(batch, output.text_logits).text_kl, torch.zeros(()), atol=1e-6, rtol=0)


def test_the_reference_is_the_text_model_before_training():
    torch.manual_seed(0)
    llm = build_llm(taslm_tiny().llm)
    model = make()
    state = {key: value.clone() for key, value in llm.state_dict().items()}
    adapted = Taslm(taslm_tiny(), model.quantizer, llm).eval()
    untouched = build_llm(taslm_tiny().llm).eval()
    untouched.load_state_dict(state)
    batch = batch_of(adapted, LONG, SHORT)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    ours, theirs = adapted.reference_logits(batch), text_logits(untouched, batch.token_ids[:, :7])
    assert ours.shape == (2, 7, 120)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert not torch.allclose(text_logits(adapted.llm, batch.token_ids[:, :7]), theirs, atol=1e-3)
    assert all(p.requires_grad for name, p in adapted.named_parameters() if "lora" in name)


def test_the_sample_has_the_gradient_of_mean_plus_std():
    model = make()
    head, hidden = model.head.train(), torch.randn(3, 5, 32)
    torch.manual_seed(1)
    output = head(hidden, model.quantizer)
    torch.manual_seed(1)
    std = (0.5 * head.log_variance).exp()
    noise = torch.randn_like(output.mean)
    torch.testing.assert_close(output.latent, output.mean + std * noise, atol=1e-6, rtol=0)
    mean_grad, log_variance_grad = torch.autograd.grad(output.latent.sum(), [output.mean, head.log_variance])
    torch.testing.assert_close(mean_grad, torch.ones_like(mean_grad))
    torch.testing.assert_close(log_variance_grad, 15 * 0.5 * std)  # not 0.5 * std * noise
    assert not torch.allclose(log_variance_grad, (0.5 * std * noise).sum((0, 1)), atol=0.1)


def test_in_eval_mode_the_latent_is_the_mean_plus_one_std_or_the_mean():
    released, plain = make(), make(latent_adds_std=False)
    hidden = torch.randn(2, 32)
    for model, shift in ((released, (0.5 * released.head.log_variance).exp()), (plain, 0.0)):
        output = model.predict_taste(hidden)
        torch.testing.assert_close(output.latent, output.mean + shift)
        assert torch.equal(output.codes, model.quantizer.encode_embedding(output.latent))
        assert torch.equal(output.latent, model.predict_taste(hidden).latent)


def test_latent_loss_is_regression_and_kl_to_a_unit_gaussian_around_the_target():
    head = EmbeddingHead(replace(taslm_tiny(), latent_kl_share=0.25))
    torch.nn.init.normal_(head.log_variance)
    mean, latent, target = torch.randn(3, 7, 16)
    std = (0.5 * head.log_variance).exp()
    kl = kl_divergence(Normal(mean, std), Normal(target, 1.0)).mean()
    loss = head.loss(HeadOutput(None, None, latent, mean), None, target)
    torch.testing.assert_close(loss, 0.75 * (latent - target).square().mean() + 0.25 * kl)


def test_codebook_decay_weights_the_first_codebooks_more():
    logits, labels = torch.randn(6, 4, 24), torch.randint(0, 24, (6, 4))
    entropies = torch.stack([torch.nn.functional.cross_entropy(logits[:, r], labels[:, r]) for r in range(4)])
    config = replace(taslm_tiny(), head="token")
    output = HeadOutput(None, logits)
    torch.testing.assert_close(TokenHead(config).loss(output, labels, None), entropies.mean())
    weights = torch.tensor([1, 0.52, 0.52**2, 0.52**3])
    decayed = TokenHead(replace(config, codebook_decay=0.52)).loss(output, labels, None)
    torch.testing.assert_close(decayed, (weights * entropies).sum() / weights.sum())


def test_the_soft_head_expects_a_codebook_vector():
    model = make(head="token_soft")
    output = model.predict_taste(torch.randn(2, 5, 32))
    expected = torch.einsum(
        "bnrk,rkd->bnd", output.logits.softmax(-1), torch.stack([layer.embed for layer in model.quantizer.layers])
    )
    torch.testing.assert_close(output.latent, expected, atol=1e-5, rtol=0)
    certain = HeadOutput(None, torch.nn.functional.one_hot(LONG[2], 24) * 1e4, model.quantizer.embed_codes(LONG[2]))
    assert model.head.loss(certain, LONG[2], model.quantizer.embed_codes(LONG[2])) == 0


def test_only_the_backbone_is_bfloat16_and_rope_stays_exact_unless_asked():
    full, half, rounded = make(), make(bfloat16=True), make(bfloat16=True, round_rope=True)
    dtypes = {name: str(tensor.dtype) for name, tensor in half.named_parameters() if not name.startswith("quantizer")}
    assert {dtype for name, dtype in dtypes.items() if "lora" not in name and "language_model" in name} == {
        "torch.bfloat16"
    }
    assert {d for name, d in dtypes.items() if "lora" in name or "language_model" not in name} == {"torch.float32"}
    table = full.llm.model.rotary_emb.inv_freq
    assert torch.equal(half.llm.model.rotary_emb.inv_freq, table)
    assert torch.equal(rounded.llm.model.rotary_emb.inv_freq, table.bfloat16().float())
    assert not torch.equal(table, table.bfloat16().float())
    half.load_state_dict(full.state_dict())
    batch = batch_of(full, LONG, SHORT)
    outputs = [model(batch) for model in (full, half)]
    assert outputs[1].text_logits.dtype == torch.bfloat16
    exact, close = outputs[0].text_logits, outputs[1].text_logits.float()
    assert 0 < (close - exact).std() < 0.05 * exact.std()


def test_fusion_and_heads_stay_float32_under_autocast():
    model = make()
    batch, hidden = batch_of(model, LONG), torch.randn(1, 40, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inputs = model.embed_sequence(batch.token_ids, batch.codes)
        taste = model.predict_taste(hidden)
        logits = model(batch).text_logits.float()
    assert torch.equal(inputs, model.embed_sequence(batch.token_ids, batch.codes))
    assert torch.equal(taste.latent, model.predict_taste(hidden).latent)
    exact = model(batch).text_logits
    assert 0 < (logits - exact).std() < 0.05 * exact.std()


def test_released_sizes():
    config = taslm_paper()
    with torch.device("meta"):
        model = Taslm(config, ResidualVQ(config.rvq))
    assert sum(p.numel() for name, p in model.named_parameters() if "lora" in name) == 45_088_768
    assert config.head == "embedding" and config.delay == 1 and not config.round_rope
    assert model.head.mean.weight.shape == (256, 2048) and model.fuse.linear.weight.shape == (2048, 1280)
    assert build_rope(config).min() == pytest.approx(500_000 ** (-62 / 64) / 32)
    assert build_rope(taslm_mini()).min() == pytest.approx(100_000 ** (-62 / 64))


def build_rope(config: TaslmConfig) -> torch.Tensor:
    sizes = replace(config.llm, vocab_size=8, d_model=64, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=8)
    return build_llm(sizes).model.rotary_emb.inv_freq


def test_names_and_types_of_the_released_checkpoint(parity_dir):
    released = {}
    for line in (parity_dir / "released_taste_keys.tsv").read_text().splitlines():
        name, shape, dtype = line.split("\t")
        if name.startswith("spoken_lm."):
            shape = [int(size) for size in shape.strip("()").split(",") if size.strip()]
            dtype = getattr(torch, dtype.removeprefix("torch."))
            released[name.removeprefix("spoken_lm.")] = torch.empty(shape, dtype=dtype, device="meta")
    with torch.device("meta"):
        model = Taslm(taslm_paper(), ResidualVQ(taslm_paper().rvq))
    ours = {key: value for key, value in model.state_dict().items() if not key.startswith("quantizer.")}
    renamed = rename_original(released)
    assert renamed.keys() == ours.keys()
    assert all((renamed[key].shape, renamed[key].dtype) == (ours[key].shape, ours[key].dtype) for key in ours)


@pytest.mark.parametrize("break_it", ["delay", "lora_alpha", "sos", "head_dim"])
def test_golden_tensors_notice_a_wrong_model(parity_dir, break_it):
    golden = load_golden(parity_dir / "slm_linear_last.safetensors")
    if break_it == "head_dim":  # another rotation table
        golden.weights["inv_freq_bf16"] = golden.weights["inv_freq_bf16"].flip(0)
    else:
        golden.config[break_it] += 1
    assert any(not row.ok for row in parity_taslm.golden_taslm(golden))


def test_models_that_do_not_fit_are_refused():
    model = make()
    with pytest.raises(TasteError, match="use the preset made for this model"):
        Taslm(taslm_tiny(), model.quantizer, build_llm(replace(taslm_tiny().llm, vocab_size=130)))
    with pytest.raises(TasteError, match="quantizer's sizes differ"):
        Taslm(taslm_tiny(), ResidualVQ(replace(taslm_tiny().rvq, codebook_size=25)))
    for wrong in ({"head": "other"}, {"delay": -1}, {"delay_level": "letter"}, {"sos_id": 120}):
        with pytest.raises(TasteError):
            replace(taslm_tiny(), **wrong)
