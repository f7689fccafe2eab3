"""Weights on disk: every part comes back as it was, and damaged or foreign files end in one sentence."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from taste_min.config import tiny
from taste_min.errors import TasteError
from taste_min.export import TEXT_ONLY, load_parts, read_stages, start_from_parts, write_manifest, write_parts
from taste_min.flow import Flow
from taste_min.objectives import TokenizerObjective
from taste_min.vocoder import Vocoder

CONFIG = tiny()


@pytest.fixture(scope="module")
def decoder():
    """Whisper's decoder at the size of the tiny aggregator, whose tables are left out of the files."""
    torch.manual_seed(1)
    a = CONFIG.aggregator
    sizes = {"decoder_layers": a.n_layers, "decoder_attention_heads": a.n_heads, "decoder_ffn_dim": a.d_ff}
    more = {"max_target_positions": a.n_positions, "pad_token_id": 0}
    return WhisperDecoder(WhisperConfig(vocab_size=a.vocab_size, d_model=a.d_model, **sizes, **more)).eval()


@pytest.fixture
def model(decoder):
    """An objective of the stage with quantizer whose weights have moved away from where they started."""
    torch.manual_seed(2)
    model = TokenizerObjective(CONFIG, audio=True, quantize=True)
    model.aggregator.load_whisper_decoder(decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_((parameter + 0.1).half())
        for layer in model.quantizer.layers:
            layer.embed.normal_()
            layer.initted.fill_(1)
    return model


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    state = theirs.state_dict()
    return all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())


def test_parts_come_back(tmp_path, model, decoder):
    torch.manual_seed(3)
    flow, vocoder = Flow(CONFIG.flow).half().float(), Vocoder(CONFIG.vocoder).half().float()
    write_parts(tmp_path, {**model.exports(), "flow": flow, "vocoder": vocoder})
    parts = load_parts(tmp_path, CONFIG, decoder)
    assert sorted(parts) == ["aggregator", "flow", "quantizer", "unit_decoder", "vocoder"]
    assert not any(part.training for part in parts.values())
    assert same(parts["aggregator"], model.aggregator) and same(parts["unit_decoder"], model.unit_decoder)
    assert same(parts["flow"], flow) and same(parts["vocoder"], vocoder)
    assert "embed_tokens.weight" not in load_file(tmp_path / "aggregator.safetensors")  # Whisper's own


def test_untrained_aggregator_layers_come_from_whisper(tmp_path, model, decoder):
    write_parts(tmp_path, model.exports())
    path = tmp_path / "aggregator.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("layers.0.")}, str(path))
    aggregator = load_parts(tmp_path, CONFIG, decoder)["aggregator"]
    for layer, (ours, trained, whisper) in enumerate(
        zip(aggregator.layers, model.aggregator.layers, decoder.layers, strict=True)
    ):
        queries = [part.encoder_attn.q_proj.weight for part in (ours, trained, whisper)]
        assert not torch.equal(queries[1], queries[2])
        assert torch.equal(queries[0], queries[1 if layer else 2])


def test_a_quantizer_without_moving_averages_gives_the_same_codes_and_can_go_on(tmp_path, model):
    write_parts(tmp_path, model.exports())
    path = tmp_path / "quantizer.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.endswith(("embed_avg", "cluster_size"))}, str(path))
    quantizer = load_parts(tmp_path, CONFIG, None)["quantizer"]
    x = torch.randn(1, 9, 32)
    assert torch.equal(quantizer(x).codes, model.quantizer.eval()(x).codes)
    layer = quantizer.layers[0]
    assert torch.equal(layer.embed_avg, layer.embed) and (layer.cluster_size == 1).all()


def test_text_only_has_no_audio_branch_in_its_file_but_a_unit_decoder_must_have_one(tmp_path):
    model = TokenizerObjective(CONFIG, audio=False, quantize=False)
    write_parts(tmp_path, {TEXT_ONLY: model.unit_decoder.half().float()})
    assert not any(k.startswith(("audio_", "fusion")) for k in load_file(tmp_path / f"{TEXT_ONLY}.safetensors"))
    loaded = load_parts(tmp_path, CONFIG, None)[TEXT_ONLY]
    ids, lengths, speaker = torch.tensor([[1, 2, 3]]), torch.tensor([3]), torch.randn(1, 12)
    prompts = [part.eval().prompts(ids, lengths, speaker, None).rows[0] for part in (model.unit_decoder, loaded)]
    assert torch.equal(*prompts)
    (tmp_path / f"{TEXT_ONLY}.safetensors").rename(tmp_path / "unit_decoder.safetensors")
    with pytest.raises(TasteError, match="audio_.* does not fit"):
        load_parts(tmp_path, CONFIG, None)


def test_training_starts_from_what_fits_of_exported_parts(tmp_path, model):
    write_parts(tmp_path, model.exports())
    fewer = replace(CONFIG.unit_decoder, n_units=32)
    small = replace(CONFIG, unit_decoder=fewer, flow=replace(CONFIG.flow, n_units=32))
    for config, other in (
        (CONFIG, set()),
        (small, {"speech_embedding.weight", "llm_decoder.weight", "llm_decoder.bias"}),
    ):
        objective = TokenizerObjective(config, audio=True, quantize=False)
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        assert set(start_from_parts(objective, tmp_path)) == {f"unit_decoder.{name}" for name in other}
        for name, value in objective.unit_decoder.state_dict().items():
            first = before[f"unit_decoder.{name}"]
            assert torch.equal(value, first if name in other else model.unit_decoder.state_dict()[name]), name
        # the file holds the layer norm with the centring folded in
        assert torch.equal(objective.aggregator.layer_norm.weight, before["aggregator.layer_norm.weight"])
    (tmp_path / "unit_decoder.safetensors").unlink()
    with pytest.raises(TasteError, match="neither a run nor exported parts"):
        start_from_parts(objective, tmp_path)  # an aggregator and a quantizer are left
    (tmp_path / "unit_decoder.safetensors").write_bytes(b"half a fi")
    with pytest.raises(TasteError, match="is damaged"):
        start_from_parts(objective, tmp_path)


def test_a_damaged_manifest_is_named_and_kept(tmp_path):
    (tmp_path / "flow.safetensors").write_bytes(b"weights")
    for stage in ("flow", "vocoder"):
        write_manifest(tmp_path, stage, {"steps": 1}, ["flow.safetensors"])
    whole = (tmp_path / "manifest.json").read_bytes()
    assert read_stages(tmp_path).keys() == {"flow", "vocoder"}
    for damaged in (b"", whole[:-9], b"\xff" + whole, b"[]", b'{"stages": 1}', b'{"stages": {"flow": 1}}', b"{}"):
        (tmp_path / "manifest.json").write_bytes(damaged)
        with pytest.raises(TasteError, match="manifest.json is damaged; delete it"):
            write_manifest(tmp_path, "flow", {}, [])
        assert (tmp_path / "manifest.json").read_bytes() == damaged


def test_damaged_and_foreign_files_end_in_a_sentence(tmp_path):
    flow = Flow(CONFIG.flow)
    write_parts(tmp_path, {"flow": flow})
    path = tmp_path / "flow.safetensors"
    whole = path.read_bytes()

    path.write_bytes(whole[:-8])
    with pytest.raises(TasteError, match="flow.safetensors is damaged"):
        load_parts(tmp_path, CONFIG, None)
    path.write_bytes(b"")
    with pytest.raises(TasteError, match="is damaged"):
        load_parts(tmp_path, CONFIG, None)
    path.write_bytes(whole)
    with pytest.raises(TasteError, match=r"another model or size \(input_embedding.weight does not fit"):
        load_parts(
            tmp_path,
            replace(
                CONFIG, flow=replace(CONFIG.flow, n_units=32), unit_decoder=replace(CONFIG.unit_decoder, n_units=32)
            ),
            None,
        )
    weights = load_file(path)
    save_file({**weights, "extra": torch.zeros(1)}, str(path))
    with pytest.raises(TasteError, match="extra does not fit"):
        load_parts(tmp_path, CONFIG, None)
    weights.pop("encoder_proj.bias")
    save_file(weights, str(path))
    with pytest.raises(TasteError, match="encoder_proj.bias does not fit"):
        load_parts(tmp_path, CONFIG, None)
