"""Golden-tensor checks: is every module, number for number, the original one?

A golden file holds weights (`w.`), inputs (`i.`) and expected outputs (`o.`) of one original module at a tiny random
size, under the original key names, with its configuration in the metadata. Each function below loads such a file into
our module and returns one row per output.
"""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from . import (
    aggregator,
    audio,
    encoder,
    flow,
    flow_matching,
    generate,
    joint_sampler,
    llama,
    parity_decoder,
    parity_taslm,
    quantizer,
    taslm,
    taslm_layout,
    transformer,
    unet,
    unit_decoder,
    vocoder,
)
from .config import AggregatorConfig, EncoderConfig, RVQConfig
from .errors import TasteError
from .golden import Golden, Row, expand_tables, load_golden, load_rvq, strip_prefix
from .released_account import LISTS, account
from .released_config import Shapes, aggregator_config, rvq_config


def _rvq_config(config: dict) -> RVQConfig:
    return RVQConfig(
        d_model=config["dim"],
        codebook_dim=config["codebook_dim"],
        n_quantizers=config["num_quantizers"],
        codebook_size=config["codebook_size"],
        decay=config["decay"],
        kmeans_iters=config["kmeans_iters"],
        quantizer_dropout=config["quantize_dropout"],
    )


def rvq(golden: Golden) -> list[Row]:
    """Lookup, the three index helpers, and one training step with its input gradient and codebook update."""
    model = load_rvq(_rvq_config(golden.config), golden.weights)
    x, mask = golden.inputs["x"], golden.inputs["mask"]
    model.eval()
    result = model(x, mask)
    rows = [
        golden.row("q", result.quantized),
        golden.row("idx", result.codes),
        golden.row("from_idx", model.decode(result.codes)),
        golden.row("code_from_idx", model.embed_codes(result.codes)),
        golden.row("idx_from_code", model.encode_embedding(golden.inputs["z"])),
    ]
    model.train()
    x = x.clone().requires_grad_()
    result = model(x, mask)
    (result.quantized.square().sum() + result.commitment_loss).backward()
    rows += [
        golden.row("train_q", result.quantized),
        golden.row("train_commit", result.commitment_loss),
        golden.row("grad_x", x.grad),
    ]
    for name in golden.outputs:
        if name.startswith("ema."):
            _, _, _, layer, _, buffer = name.split(".")
            rows.append(golden.row(name, getattr(model.layers[int(layer)], buffer)[None]))
    return rows


def audio_tower(golden: Golden) -> list[Row]:
    """Encoder taps, aggregator, word pooling and quantizer in one pass over a padded batch."""
    config, weights = golden.config, strip_prefix(golden.weights, "audio_joint_encoder_segmenter.")
    encoder_weights = strip_prefix(weights, "audio_encoder.encoder.")
    d_model, n_mels, _ = encoder_weights["conv1.weight"].shape
    table = {"embed_tokens.weight": AggregatorConfig().vocab_size}
    decoder_weights = expand_tables(strip_prefix(weights, "audio_segmenter.decoder."), table)
    codebooks = quantizer.rename_original(strip_prefix(golden.weights, "vq.rvq."))
    shapes = Shapes({"aggregator": decoder_weights, "quantizer": codebooks})

    tower = encoder.WhisperEncoder(
        EncoderConfig(
            n_mels=n_mels,
            d_model=d_model,
            n_layers=config["enc_layers"],
            n_heads=config["heads"],
            d_ff=len(encoder_weights["layers.0.fc1.weight"]),
            n_positions=config["src"],
            shallow_layer=config["tap"],
        )
    )
    tower.encoder.load_state_dict(encoder_weights)
    words = aggregator.Aggregator(replace(aggregator_config(shapes), n_heads=config["heads"])).eval()
    words.load_state_dict(decoder_weights)
    vq = quantizer.ResidualVQ(rvq_config(shapes, {})).eval()
    vq.load_state_dict(codebooks)

    feats, ids = golden.inputs["feats"], golden.inputs["ids"]
    word_ids, lengths = golden.inputs["word_ids"], golden.inputs["lengths"]
    with torch.no_grad():
        states = tower(feats.transpose(1, 2))
        pooled = words(ids, word_ids, lengths, states.last, states.shallow).pooled
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        result = vq(pooled, mask)
    return [
        golden.row("pre_vq", pooled),
        golden.row("idx", result.codes),
        golden.row("embeds", result.quantized),
    ]


def frontend(golden: Golden) -> list[Row]:
    """Whisper's log-mel, padded and unpadded, and the Kaldi filter banks."""
    wav = golden.inputs["wav"][0]
    return [
        golden.row("logmel_first120", audio.log_mel(wav, n_mels=128).T[None, :120]),
        golden.row("n", torch.tensor([len(wav) // audio.HOP])),
        golden.row("s3", audio.log_mel(wav, n_mels=128, pad=False)[None]),
        # The logarithm of nearly nothing: float32 is no more exact there, and its last digits depend on the processor.
        golden.row("fbank", audio.kaldi_fbank(wav), tolerance=1e-4),
    ]


# golden file -> (check, our modules that it covers)
CHECKS: dict[str, tuple[Callable[[Golden], list[Row]], list]] = {
    "rvq": (rvq, [quantizer]),
    "audio_tower": (audio_tower, [encoder, aggregator, quantizer]),
    "frontend": (frontend, [audio]),
    "speech_decoder": (parity_decoder.golden_speech_decoder, [unit_decoder, transformer]),
    "flow": (parity_decoder.golden_flow, [flow, flow_matching, unet, transformer]),
    "hift": (parity_decoder.golden_hift, [vocoder]),
    **dict.fromkeys(
        ("slm_continue_latent_linear_last", "slm_linear_last", "slm_multi_linear_last"),
        (parity_taslm.golden_taslm, [taslm, llama, taslm_layout, generate, joint_sampler]),
    ),
}

# Lines of the library files that the original carries a copy of for the same job, counted like ours: blank lines and
# comments left out. transformers 4.45.2: modeling_whisper.py; vector-quantize-pytorch 1.18.1: residual_vq.py and
# vector_quantize_pytorch.py. The other parts come from projects whose releases could not be counted.
THEIR_LINES = {"rvq": 898 + 314, "audio_tower": 1812 + 898 + 314}


def run(folder: str | Path) -> tuple[list[Row], list[str]]:
    """All rows of all golden files in `folder`, and the names of files that no check covers yet.

    Raises TasteError when the folder has no golden files or one of them is damaged.
    """
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise TasteError(f"there are no .safetensors files in {folder}; give the folder with the golden files.")
    rows, missing = [], []
    for path in paths:
        if path.stem not in CHECKS:
            missing.append(path.stem)
            continue
        golden = load_golden(path)
        try:
            rows += CHECKS[path.stem][0](golden)
        except (KeyError, RuntimeError) as error:  # a tensor is absent or does not fit the configuration
            reason = str(error).splitlines()[0]
            raise TasteError(f"{path.name} does not hold what its name says ({reason}); copy it again.") from error
    return rows, missing


def code_lines(modules: list) -> int:
    """Lines of our source files that are neither blank nor comments."""
    lines = [line.strip() for module in modules for line in inspect.getsource(module).splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


def command(args) -> int:
    """`taste-min parity FOLDER`: a row per output; exit code 1 when any of them differs.

    Where the folder also lists the tensors of the released checkpoints, these have to be accounted for too.
    """
    rows, missing = run(args.folder)
    accounts = [account(path) for path in sorted(Path(args.folder).glob(LISTS))]
    if args.json:
        report = {"rows": [asdict(row) | {"ok": row.ok} for row in rows], "not_implemented_yet": missing}
        report["lines"] = {
            name: {"ours": code_lines(CHECKS[name][1]), "theirs": THEIR_LINES.get(name)}
            for name in sorted({row.file for row in rows})
        }
        report["released"] = [one.report() for one in accounts]
        print(json.dumps(report, indent=2))
    else:
        print(f"{'file':<33}{'output':<44}{'max |diff|':>12}{'tolerance':>12}")
        for row in rows:
            verdict = "ok" if row.ok else "DIFF"
            print(f"{row.file:<33}{row.output:<44}{row.max_diff:>12.1e}{row.tolerance:>12.0e}  {verdict}")
        for name in sorted({row.file for row in rows}):
            theirs = THEIR_LINES.get(name, "not counted")
            print(f"{name}: {code_lines(CHECKS[name][1])} lines here, {theirs} in the libraries the original copies")
        for name in missing:
            print(f"{name}: not implemented yet", file=sys.stderr)
        for one in accounts:
            print(one)
    return 0 if all(one.ok for one in [*rows, *accounts]) else 1
