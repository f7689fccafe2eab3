"""Golden-tensor checks of the decoder side: unit decoder, flow and vocoder. `parity.py` calls them."""

from dataclasses import replace

import torch

from . import flow, unit_decoder, vocoder
from .golden import Golden, Row, expand_tables
from .released_config import Shapes, flow_config, unit_decoder_config, vocoder_config


def golden_speech_decoder(golden: Golden) -> list[Row]:
    """Teacher-forced logits (with and without audio), labels and loss, and greedy decoding with its length limits."""
    weights = unit_decoder.rename_original(golden.weights)
    weights = expand_tables(weights, {"text_embedding.weight": golden.config["text_token_size"]})
    sizes = unit_decoder_config(Shapes({"unit_decoder": weights}), {})
    model = unit_decoder.UnitDecoder(replace(sizes, label_smoothing=golden.config["lsm_weight"])).eval()
    model.load_state_dict(weights)
    text = golden.inputs["ids"], golden.inputs["lengths"]
    speech = golden.inputs["speech"], golden.inputs["speech_lengths"]
    speaker, audio = golden.inputs["spk"], golden.inputs["audio"]
    with torch.no_grad():
        predicted = model(*text, *speech, speaker, audio)
        text_only = model(*text, *speech, speaker, text_only=True)
    first = [tensor[:1] for tensor in (*text, speaker, audio)]
    greedy = model.generate(*first, sampling=unit_decoder.Sampling(greedy=True))
    return [
        golden.row("logits", predicted.logits),
        golden.row("labels", predicted.labels),
        golden.row("loss", predicted.loss),
        golden.row("logits_text_only", text_only.logits),
        golden.row("greedy", greedy.units),
    ]


def golden_flow(golden: Golden) -> list[Row]:
    """Units to mel: encoder, length regulator, and ten guided Euler steps from the given noise."""
    config, weights = golden.config, golden.weights
    heads = {"n_unet_heads": config["heads"], "head_dim": config["head_dim"]}  # no tensor tells them
    sizes = replace(
        flow_config(Shapes({"flow": weights})), n_timesteps=config["steps"], guidance=config["cfg"], **heads
    )
    model = flow.Flow(sizes).eval()
    model.load_state_dict(weights)
    units = golden.inputs["token"]
    mel = model.generate(units, torch.tensor([units.shape[1]]), golden.inputs["spk"], noise=golden.inputs["z"]).mel
    return [golden.row("mel", mel, tolerance=1e-4)]


def golden_hift(golden: Golden) -> list[Row]:
    """Mel to waveform with the given phases and noise, and the predicted F0."""
    weights = vocoder.rename_original(golden.weights)
    model = vocoder.Vocoder(vocoder_config(Shapes({"vocoder": weights}))).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        speech = model(golden.inputs["mel"], phase=golden.inputs["phase"], noise=golden.inputs["noise"])
    return [golden.row("f0", speech.f0), golden.row("wav", speech.wav)]
