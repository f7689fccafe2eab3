"""Golden-tensor checks of the decoder side: unit decoder, flow and vocoder. `parity.py` calls them."""

import torch

from . import flow, unit_decoder, vocoder
from .config import FlowConfig, UnitDecoderConfig, VocoderConfig
from .golden import Golden, Row, expand_tables


def golden_speech_decoder(golden: Golden) -> list[Row]:
    """Teacher-forced logits (with and without audio), labels and loss, and greedy decoding with its length limits."""
    config, weights = golden.config, unit_decoder.rename_original(golden.weights)
    weights = expand_tables(weights, {"text_embedding.weight": config["text_token_size"]})

    model = unit_decoder.UnitDecoder(
        UnitDecoderConfig(
            vocab_size=config["text_token_size"],
            n_units=config["speech_token_size"],
            d_text=config["encoder_input_size"],
            d_taste=config["audio_encoder_input_size"],
            d_audio=config["encoder_input_size"],
            d_speaker=config["spk_embed_dim"],
            d_model=config["llm_input_size"],
            n_heads=config["heads"],
            d_ff=len(weights["llm.encoders.0.feed_forward.w_1.weight"]),
            n_text_layers=config["text_blocks"],
            n_audio_layers=config["audio_blocks"],
            n_layers=config["llm_blocks"],
            label_smoothing=config["lsm_weight"],
        )
    ).eval()
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
    n_units, d_model = weights["input_embedding.weight"].shape
    model = flow.Flow(
        FlowConfig(
            n_units=n_units,
            d_speaker=weights["spk_embed_affine_layer.weight"].shape[1],
            d_model=d_model,
            n_heads=config["enc_heads"],
            d_ff=len(weights["encoder.encoders.0.feed_forward.w_1.weight"]),
            n_layers=config["enc_blocks"],
            channels=config["channels"][0],
            n_unet_heads=config["heads"],
            head_dim=config["head_dim"],
            n_blocks=config["n_blocks"],
            n_mid_stages=config["mid"],
            n_timesteps=config["steps"],
            guidance=config["cfg"],
        )
    ).eval()
    model.load_state_dict(weights)
    units = golden.inputs["token"]
    mel = model.generate(units, torch.tensor([units.shape[1]]), golden.inputs["spk"], noise=golden.inputs["z"]).mel
    return [golden.row("mel", mel, tolerance=1e-4)]


def golden_hift(golden: Golden) -> list[Row]:
    """Mel to waveform with the given phases and noise, and the predicted F0."""
    config = golden.config
    model = vocoder.Vocoder(VocoderConfig(channels=config["base"], f0_channels=config["f0_ch"])).eval()
    model.load_state_dict(vocoder.rename_original(golden.weights))
    with torch.no_grad():
        speech = model(golden.inputs["mel"], phase=golden.inputs["phase"], noise=golden.inputs["noise"])
    return [golden.row("f0", speech.f0), golden.row("wav", speech.wav)]
