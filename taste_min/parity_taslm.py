"""Golden-tensor checks of the joint language model: teacher forcing with both losses, and one scripted generation."""

import re

import torch

from . import generate, joint_sampler, llama, taslm, taslm_layout
from .config import TaslmConfig
from .golden import Golden, Row, load_rvq, strip_prefix
from .quantizer import rename_original
from .released_config import ROPE, taslm_config


def _config(golden: Golden) -> TaslmConfig:
    """Sizes from the weights, the rest from the metadata. RoPE base and stretching are the released ones."""
    config = golden.config
    settings = {
        "spoken_lm_config": {
            "out_llm_module": golden.name.removeprefix("slm_"),
            "sos_id": config["sos"],
            "delay": config["delay"],
            "kwargs_for_lora": {"lora_alpha": config["lora_alpha"]},
        },
        "text_config": {
            "num_attention_heads": config["heads"],
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0} | ROPE,
        },
    }
    codebooks = rename_original(strip_prefix(golden.weights, "rvq."))
    return taslm_config({"taslm": golden.weights, "quantizer": codebooks}, settings)


def _load(golden: Golden, config: TaslmConfig) -> tuple[taslm.Taslm, torch.nn.Module]:
    """The joint model and the frozen text model that the KL term compares with."""
    weights = dict(golden.weights)
    rope = weights.pop("inv_freq_bf16")
    quantizer = load_rvq(config.rvq, weights)
    model = taslm.Taslm(config, quantizer).eval()
    rotary = model.llm.model.rotary_emb
    rotary.inv_freq = rope.clone()
    reference = llama.build_llm(config.llm).eval()
    frozen = strip_prefix(weights, "ref.")
    frozen.setdefault("lm_head.weight", frozen["model.embed_tokens.weight"])
    reference.load_state_dict(frozen)
    own = {key: value for key, value in weights.items() if not key.startswith(("ref.", "rvq."))}
    codebooks = {f"quantizer.{key}": value for key, value in quantizer.state_dict().items()}
    model.load_state_dict(taslm.rename_original(own) | codebooks)
    return model, reference


def _rule(rule: str, vocab_size: int) -> torch.Tensor:
    """ "id%3==0" -> (V,) bool."""
    divisor, remainder = map(int, re.fullmatch(r"id%(\d+)==(\d+)", rule).groups())
    return torch.arange(vocab_size) % divisor == remainder


def golden_taslm(golden: Golden) -> list[Row]:
    """Labels, text logits, codes at all positions, the loss with and without the KL term, and a scripted generation."""
    config = _config(golden)
    model, reference = _load(golden, config)
    prompts = []
    for ids, word_ids, codes, n in zip(
        *(golden.inputs[key] for key in ("ids", "words", "idx", "lengths")), strict=True
    ):
        first = codes[:n, 0] >= 0
        prompts.append(generate.Prompt(ids[:n], word_ids[:n], codes[:n][first]))
    layouts = [model.layout(prompt.token_ids, prompt.word_ids, prompt.codes) for prompt in prompts]
    batch = taslm_layout.collate(layouts, spurious_labels=True)
    with torch.no_grad():
        plain = model(batch)
        n_reference = batch.token_ids.shape[1] - config.delay
        with_kl = model(batch, llama.text_logits(reference, batch.token_ids[:, :n_reference]))
    rows = [
        golden.row("lengths", batch.mask.sum(1).int()),
        golden.row("text_labels", batch.text_labels),
        golden.row("taste_labels", batch.taste_labels),
        golden.row("text_logits", plain.text_logits),
        golden.row("taste_pred", plain.taste.codes),
        golden.row("loss", plain.loss),
        golden.row("loss_kl", with_kl.loss),
    ]
    script, vocab_size = golden.config["scripted_text"], config.llm.vocab_size
    tables = joint_sampler.SamplerTables(
        word_start=_rule(golden.config["word_start"], vocab_size),
        sentence_end=_rule(golden.config["sentence_end"], vocab_size),
        banned=torch.zeros(vocab_size, dtype=torch.bool),
    )
    sampling = joint_sampler.JointSampling(
        extra_words=golden.config["extra_words"], max_factor=3, pad_text_at_end=False
    )
    continued = generate.generate(model, prompts[:1], tables, sampling, script=script)[0]
    starts = torch.tensor([step.word_start for step in continued.trace]).cumsum(0)
    none = (taslm_layout.IGNORE,) * config.rvq.n_quantizers
    # The original keeps a row for every step at which codes could be taken, also within a word.
    heard = [step.codes or none for step, n in zip(continued.trace, starts, strict=True) if n > config.delay]
    return rows + [
        golden.row("gen_ids", continued.token_ids[None]),
        golden.row("gen_words", continued.word_ids[None].int()),
        golden.row("gen_idx", torch.tensor(heard)[None]),
    ]
