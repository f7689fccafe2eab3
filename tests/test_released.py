"""Original checkpoints: what is written comes back, and what is wrong or missing is said.

The released weights are not at hand; checkpoints in their layout are written here at a tiny size.
"""

import json
import resource
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from fake_taste import TEXT, Recognizer, letters, speech
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from taste_min import released
from taste_min.aggregator import Aggregator
from taste_min.cli import main
from taste_min.config import (
    AggregatorConfig,
    EncoderConfig,
    FlowConfig,
    LlamaSizes,
    RVQConfig,
    TaslmConfig,
    TasteConfig,
    UnitDecoderConfig,
    VocoderConfig,
)
from taste_min.encoder import WhisperEncoder
from taste_min.errors import TasteError
from taste_min.flow import Flow
from taste_min.quantizer import ResidualVQ
from taste_min.released_account import LISTS
from taste_min.released_config import HEADS
from taste_min.released_export import export_original, export_trainer
from taste_min.released_keys import UNREAD, from_trainer, read_keys, to_original, to_trainer
from taste_min.taslm import Taslm
from taste_min.taslm_layout import collate
from taste_min.tokenizer import Taste
from taste_min.unit_decoder import UnitDecoder
from taste_min.unit_sampling import Sampling
from taste_min.vocoder import Vocoder

N_UNITS, D_SPEAKER, D = 64, 12, 128  # D: two attention heads of 64, as every Whisper has
SIZES = TasteConfig(
    name="released",
    encoder=EncoderConfig(n_mels=16, d_model=D, n_layers=7, n_heads=2, d_ff=64),
    aggregator=AggregatorConfig(d_model=D, n_heads=2, d_ff=64, n_positions=64),
    rvq=RVQConfig(d_model=D, codebook_dim=16, codebook_size=24, kmeans_iters=10),
    unit_decoder=UnitDecoderConfig(
        n_units=N_UNITS,
        d_text=8,
        d_taste=D,
        d_audio=8,
        d_speaker=D_SPEAKER,
        d_model=32,
        n_heads=4,
        d_ff=48,
        n_text_layers=2,
        n_audio_layers=1,
        n_layers=2,
    ),
    flow=FlowConfig(
        n_units=N_UNITS,
        d_speaker=D_SPEAKER,
        d_model=24,
        n_heads=4,
        d_ff=48,
        n_layers=2,
        channels=16,
        n_unet_heads=2,
        n_blocks=1,
        n_mid_stages=2,
    ),
    vocoder=VocoderConfig(channels=32, f0_channels=24),
)
LM_SIZES = TaslmConfig(
    name="released",
    llm=LlamaSizes(
        vocab_size=120, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64, n_positions=256
    ),
    rvq=SIZES.rvq,
    sos_id=100,
    lora_r=4,
    lora_alpha=8,
    round_rope=True,
)
WEIGHTS, VOICE = "model.safetensors", "cosyvoice/voice_generator.pth"
LM_HEAD = "spoken_lm.language_model.base_model.model.lm_head.weight"


class Speaker:
    def speaker_embedding(self, *wavs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.arange(1.0, D_SPEAKER + 1), dim=0)


def random_quantizer() -> ResidualVQ:
    quantizer = ResidualVQ(SIZES.rvq)
    for layer in quantizer.layers:
        layer.embed.normal_()
        layer.embed_avg.normal_()
        layer.cluster_size.uniform_()
        layer.initted.fill_(1)
    return quantizer


@pytest.fixture(scope="module")
def taste() -> Taste:
    torch.manual_seed(0)
    return Taste(
        SIZES,
        WhisperEncoder(SIZES.encoder).bfloat16(),
        Aggregator(SIZES.aggregator).bfloat16(),
        random_quantizer(),
        letters(),
        Recognizer(),
        Speaker(),
        unit_decoder=UnitDecoder(SIZES.unit_decoder),
        flow=Flow(SIZES.flow),
        vocoder=Vocoder(SIZES.vocoder),
    ).eval()


def make_taslm(taste: Taste, **changes) -> Taslm:
    torch.manual_seed(1)
    model = Taslm(replace(LM_SIZES, **changes), taste.quantizer).eval()
    model.tokenizer = letters()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_B", "pad_", "embed_tokens", "head", "fuse")):
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def folder(taste, tmp_path_factory) -> Path:
    """A checkpoint in the released layout, with the embedding head."""
    folder = tmp_path_factory.mktemp("original")
    export_original(folder, taste, make_taslm(taste))
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """The same checkpoint in another folder, with other tensors or settings: copy(edit_tensors, edit_settings)."""

    def copy(tensors=lambda tensors: tensors, settings=lambda settings: None, split: int = 1) -> Path:
        described = json.loads((folder / "config.json").read_text())
        settings(described)
        (tmp_path / "config.json").write_text(json.dumps(described))
        for name in ("cosyvoice", "whisper_tokenizer", "llama_tokenizer"):
            (tmp_path / name).symlink_to(folder / name)
        wanted = tensors(load_file(folder / WEIGHTS))
        names = [f"model-{i}.safetensors" for i in range(split)]
        if split == 1:
            save_file(wanted, tmp_path / WEIGHTS)
            return tmp_path
        keys = list(wanted)
        for i, name in enumerate(names):
            save_file({key: wanted[key] for key in keys[i::split]}, tmp_path / name)
        index = {key: names[i % split] for i, key in enumerate(keys)}
        (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
        return tmp_path

    return copy


def load(name: Path | str) -> Taste:
    model = Taste.from_pretrained(name)
    model.recognizer, model.speaker_encoder = Recognizer(), Speaker()
    return model


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    own, other = ours.state_dict(), theirs.state_dict()
    return own.keys() == other.keys() and all(
        own[key].dtype == other[key].dtype and torch.equal(own[key], other[key]) for key in own
    )


def logits(model: Taslm) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    words = torch.tensor([0, 0, 1, 2, 2, 3])
    codes = torch.randint(0, 24, (4, 4), generator=generator)
    output = model(collate([model.layout(torch.randint(0, 100, (6,), generator=generator), words, codes)]))
    return torch.cat([output.text_logits.float().flatten(), output.taste.codes.flatten().float()])


# --- there and back


@pytest.fixture(scope="module")
def heard(taste):
    """What the model hears in a second of sound."""
    return taste.encode(speech(1.0), TEXT)


def test_a_tokenizer_comes_back(taste, folder, heard):
    again = load(folder)
    assert again.config == SIZES and not again.training and not again.trim_keys
    for part in ("encoder", "aggregator", "quantizer", "unit_decoder", "flow", "vocoder"):
        assert same(getattr(taste, part), getattr(again, part)), part
    wav = speech(1.0)
    ours, theirs = heard, again.encode(wav, TEXT)
    assert torch.equal(ours.codes, theirs.codes) and torch.equal(ours.embeddings, theirs.embeddings)
    assert ours.embeddings.dtype == torch.float32 and len(set(map(tuple, ours.codes.tolist()))) > 1
    spoken = [model.decode(ours, sampling=Sampling(max_units=8), n_timesteps=2).wav for model in (taste, again)]
    assert torch.equal(*spoken) and len(spoken[0]) > 0
    again.float()
    assert again.encode(wav, TEXT).codes.shape == ours.codes.shape


@pytest.mark.parametrize("head", sorted(HEADS.values()))
def test_a_language_model_comes_back(taste, tmp_path, head):
    model = make_taslm(taste, head=head, delay=2, text_weight=0.25, taste_weight=0.75, latent_adds_std=False)
    export_original(tmp_path, taste, model)
    again = Taslm.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    assert same(model, again)
    assert torch.equal(logits(model), logits(again))
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert again.tokenizer.get_vocab() == letters().get_vocab()


def test_an_export_of_what_was_loaded_has_the_same_tensors(folder, tmp_path):
    model = load(folder)
    assert export_original(tmp_path, model, Taslm.from_pretrained(folder)) == [
        "config.json",
        WEIGHTS,
        VOICE,
        "whisper_tokenizer/tokenizer.json",
        "llama_tokenizer/tokenizer.json",
    ]
    for read, name in ((load_file, WEIGHTS), (lambda path: torch.load(path, weights_only=True), VOICE)):
        before, after = read(folder / name), read(tmp_path / name)
        assert before.keys() == after.keys()
        assert all(before[k].dtype == after[k].dtype and torch.equal(before[k], after[k]) for k in before)
    assert json.loads((folder / "config.json").read_text()) == json.loads((tmp_path / "config.json").read_text())
    assert not list(tmp_path.rglob("*.part"))


def test_the_command_exports_a_folder_or_a_file(folder, tmp_path, capsys):
    run = ["export", str(folder), "--out"]
    assert main([*run, str(tmp_path / "folder"), "--taslm", str(folder)]) == 0
    assert main([*run, str(tmp_path / "tokenizer.pt"), "--json"]) == 0
    assert '{"files": ["tokenizer.pt"]}' in capsys.readouterr().out
    again = load_file(tmp_path / "folder" / WEIGHTS)
    assert all(torch.equal(value, again[name]) for name, value in load_file(folder / WEIGHTS).items())
    for arguments, message in (
        ([*run, str(tmp_path / "tokenizer.pt")], "exists already"),
        ([*run, str(tmp_path / "other.pt"), "--taslm", str(folder)], "holds a tokenizer only"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_an_export_has_the_names_of_the_release(parity_dir, folder):
    """Layers are numbered away, because the tiny checkpoint has fewer."""

    def patterns(names):
        return {".".join("N" if part.isdigit() else part for part in name.split(".")) for name in names}

    theirs = [name for path in sorted(parity_dir.glob(LISTS)) for name in read_keys(path)]
    voice = torch.load(folder / VOICE, weights_only=True)
    assert patterns([*load_file(folder / WEIGHTS), *voice]) == patterns(theirs)


def test_a_trainer_file_comes_back(taste, folder, heard, tmp_path):
    (tmp_path / "whisper_tokenizer").symlink_to(folder / "whisper_tokenizer")
    path = tmp_path / "checkpoint_best.pt"
    export_trainer(path, load(folder))  # tensors that are views of a mapped file
    tensors = torch.load(path, weights_only=True)
    assert path.stat().st_size < 1.05 * sum(value.nbytes for value in tensors.values()) + 1e5
    tower = "audio_tokenizer.audio_joint_encoder_segmenter.audio_"
    assert {
        f"{tower}encoder.encoder.conv1.weight",
        f"{tower}segmenter.decoder.layers.1.encoder_attn.v_proj.bias",
        "audio_tokenizer.audio_quantizer.rvq.layers.3._codebook.embed",
        "llm.encoders.1.norm2.weight",
        "fuse_encoded_audio_text_module.weights",
    } <= tensors.keys()
    assert to_trainer(from_trainer(tensors)).keys() == tensors.keys()
    again = load(path)
    assert again.flow is None and again.vocoder is None
    assert (again.config.encoder, again.config.aggregator) == (SIZES.encoder, SIZES.aggregator)
    assert again.config.unit_decoder == SIZES.unit_decoder
    assert torch.equal(again.encode(speech(1.0), TEXT).codes, heard.codes)
    torch.save({f"module.{key}": value for key, value in tensors.items()} | {"epoch": 3}, path)  # several devices
    assert same(load(path).unit_decoder, taste.unit_decoder)


def test_cosyvoice_files_are_a_voice(taste, copy):
    folder = copy()
    (folder / "cosyvoice").unlink()
    voice = to_original({"flow": taste.flow.state_dict(), "vocoder": taste.vocoder.state_dict()})
    torch.save({k.removeprefix("flow."): v for k, v in voice.items() if k.startswith("flow.")}, folder / "flow.pt")
    assert load(folder).flow is None  # one of two files is no voice
    hift = {k.removeprefix("hift."): v for k, v in voice.items() if k.startswith("hift.")}
    assert "conv_pre.weight_g" in hift
    for prefix in ("", "generator."):
        torch.save({prefix + k: v for k, v in hift.items()}, folder / "hift.pt")
        again = load(folder)
        assert same(again.flow, taste.flow) and same(again.vocoder, taste.vocoder)


# --- what may be missing or different


def test_dead_tensors_and_running_averages_are_not_needed(taste, folder, copy):
    def without(tensors):
        return {k: v for k, v in tensors.items() if not k.startswith(UNREAD) and "_avg" not in k and "size" not in k}

    quantizer = load(copy(without)).quantizer
    assert torch.equal(
        quantizer.decode(torch.ones(2, 4, dtype=int)), taste.quantizer.decode(torch.ones(2, 4, dtype=int))
    )
    quantizer.train()(torch.randn(1, 5, D))  # a running average of its own, not the codebook under another name
    assert quantizer.layers[0].embed_avg.data_ptr() != quantizer.layers[0].embed.data_ptr()


def test_the_output_embedding_may_be_the_input_embedding(folder, copy):
    kept = Taslm.from_pretrained(folder)
    tied = Taslm.from_pretrained(copy(lambda tensors: {k: v for k, v in tensors.items() if k != LM_HEAD}))
    assert tied.llm.lm_head.weight is tied.llm.model.embed_tokens.weight
    assert torch.equal(logits(kept), logits(tied))


def test_an_output_embedding_of_its_own_is_kept(folder, copy):
    changed = Taslm.from_pretrained(copy(lambda tensors: tensors | {LM_HEAD: tensors[LM_HEAD] * 2}))
    assert torch.equal(changed.llm.lm_head.weight, 2 * changed.llm.model.embed_tokens.weight)
    assert not torch.equal(logits(changed), logits(Taslm.from_pretrained(folder)))


def test_every_tensor_has_its_own_type(taste, copy):
    def floats(tensors):
        exact = {k: v.float() for k, v in tensors.items() if "audio_segmenter" in k or k.startswith("spoken_lm.")}
        return tensors | exact | {k: v.bfloat16() for k, v in tensors.items() if k.startswith("speech_decoder.")}

    folder = copy(floats)
    model, wav = load(folder), speech(1.0)
    assert model.encoder.encoder.conv1.weight.dtype == torch.bfloat16
    assert model.aggregator.embed_tokens.weight.dtype == model.unit_decoder.llm_decoder.weight.dtype == torch.float32
    assert torch.equal(model.unit_decoder.llm_decoder.weight, taste.unit_decoder.llm_decoder.weight.bfloat16().float())
    assert model.encode(wav, TEXT).codes.shape == (4, 4)
    exact = Taslm.from_pretrained(folder)
    assert not exact.config.bfloat16 and exact.llm.model.embed_tokens.weight.dtype == torch.float32


def test_a_language_model_without_lora_gets_one_that_does_nothing(taste, folder, copy):
    def plain(tensors):
        names = {k: k.replace("base_model.model.", "").replace("base_layer.", "") for k in tensors if "lora" not in k}
        return {name: tensors[key] for key, name in names.items()}

    model = Taslm.from_pretrained(copy(plain, lambda s: s["spoken_lm_config"].update(use_lora=False)))
    assert model.config.lora_r == 4
    bare = Taslm.from_pretrained(folder)
    for name, parameter in bare.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert torch.equal(logits(model), logits(bare))


def test_weights_may_be_in_several_files(folder, copy):
    split = copy(split=3)
    assert same(load(split).unit_decoder, load(folder).unit_decoder)
    (split / "model-1.safetensors").unlink()
    with pytest.raises(TasteError, match=r"model-1.safetensors is missing"):
        load(split)
    (split / "model-1.safetensors").write_text("where the file really is\n")
    with pytest.raises(TasteError, match="only a pointer"):
        load(split)


def test_the_rotary_table_is_the_rounded_one_unless_the_export_says_otherwise(taste, folder, tmp_path):
    table = Taslm.from_pretrained(folder).llm.model.rotary_emb.inv_freq
    assert table.dtype == torch.float32 and torch.equal(table, table.bfloat16().float())
    export_original(tmp_path, taste, make_taslm(taste, round_rope=False))
    exact = Taslm.from_pretrained(tmp_path).llm.model.rotary_emb.inv_freq
    assert torch.equal(exact.bfloat16().float(), table) and not torch.equal(exact, table)


# --- config.json decides, and what does not fit is refused


def test_the_head_is_what_config_json_says(copy):
    folder = copy(settings=lambda s: s["spoken_lm_config"].update(out_llm_module="linear_last"))
    with pytest.raises(
        TasteError, match="the language model of this checkpoint does not fit: head.linear.weight is missing"
    ):
        Taslm.from_pretrained(folder)


@pytest.mark.parametrize(
    "section, key, value, message",
    [
        ("spoken_lm_config", "out_llm_module", "continue_weighted_layer", "head 'continue_weighted_layer'"),
        ("spoken_lm_config", "in_llm_module", "reference_mix", "in_llm_module = 'reference_mix'"),
        ("audio_tower_config", "is_joint_encoder_segmenter", False, "is_joint_encoder_segmenter = False"),
        ("text_config", "rope_scaling", {"rope_type": "yarn"}, "rotary table"),
    ],
)
def test_what_we_cannot_compute_is_refused(copy, section, key, value, message):
    with pytest.raises(TasteError, match=message):
        Taslm.from_pretrained(copy(settings=lambda s: s[section].update({key: value})))


def test_tensors_that_do_not_fit_are_named(copy):
    with pytest.raises(TasteError, match=r"unit decoder .* does not fit: llm_decoder.bias has shape \(3,\) instead of"):
        load(copy(lambda tensors: tensors | {"speech_decoder.llm_decoder.bias": torch.zeros(3)}))


def test_missing_and_foreign_tensors_are_named(copy):
    folder = copy(lambda tensors: {k: v for k, v in tensors.items() if k != "speech_decoder.text_embedding.weight"})
    with pytest.raises(TasteError, match=r"lacks the tensor speech_decoder\.text_embedding\.weight"):
        load(folder)
    tensors = {k: v.clone() for k, v in load_file(folder / WEIGHTS).items()}  # not mapped: the file is replaced
    save_file(tensors | {"speech_decoder.text_embedding.weight": torch.zeros(9, 8)}, folder / WEIGHTS)
    with pytest.raises(TasteError, match="vocabularies of aggregator and unit decoder must be equal"):
        load(folder)
    save_file({k: v for k, v in tensors.items() if not k.startswith("spoken_lm.")}, folder / WEIGHTS)
    with pytest.raises(TasteError, match="a tokenizer without a language model"):
        Taslm.from_pretrained(folder)


def test_files_that_are_something_else_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TasteError, match="does not describe a TASTE model"):
        Taste.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TasteError, match="config.json is damaged"):
        Taste.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(TasteError, match="no \\*.safetensors files"):
        Taste.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(TasteError, match="no config.json"):
        Taslm.from_pretrained(tmp_path)
    path = tmp_path / "some.pt"
    with pytest.raises(TasteError, match="there is no file"):
        Taste.from_pretrained(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(TasteError, match="damaged or holds more than weights"):
        Taste.from_pretrained(path)
    torch.save({"model": Path("/")}, path)  # an object, which would need code to come back
    with pytest.raises(TasteError, match="damaged or holds more than weights"):
        Taste.from_pretrained(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(TasteError, match="holds no state dict"):
        Taste.from_pretrained(path)


def test_what_the_original_cannot_do_is_not_exported(taste, tmp_path):
    def changed(**parts):
        model = Taste(
            replace(SIZES, **parts), *(getattr(taste, name) for name in ("encoder", "aggregator")), None, None
        )
        model.quantizer, model.unit_decoder = taste.quantizer, taste.unit_decoder
        model.flow, model.vocoder = taste.flow, taste.vocoder
        return model

    for parts, message in (
        ({"unit_decoder": replace(SIZES.unit_decoder, pronounced=True)}, "reads tokens"),
        ({"aggregator": replace(SIZES.aggregator, prefix=(1, 2))}, "always starts a text"),
        ({"flow": replace(SIZES.flow, start_at_mu=True)}, "has no start_at_mu"),
        ({"flow": replace(SIZES.flow, pronounced=True)}, "hears units only"),
        ({"vocoder": replace(SIZES.vocoder, dilations=(1, 2, 3))}, "vocoder has dilations"),
    ):
        with pytest.raises(TasteError, match=message):
            export_original(tmp_path / "out", changed(**parts))
    other = make_taslm(taste)
    other.quantizer = random_quantizer()
    with pytest.raises(TasteError, match="codes of another tokenizer"):
        export_original(tmp_path / "out", taste, other)
    assert not (tmp_path / "out").exists()


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers with the folders in it, or has no network; nothing may be fetched in another way."""
    asked, answers = [], {}

    def snapshot_download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        if repository not in answers:
            raise LocalEntryNotFoundError("no network\nand a long text")
        return str(answers[repository])

    def forbidden(*args, **kwargs):
        raise AssertionError("weights are fetched a second time")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", forbidden)
    return asked, answers


def test_a_folder_needs_no_hub(hub, folder):
    load(folder), Taslm.from_pretrained(str(folder))
    assert hub[0] == []


def test_a_hub_id_is_fetched_once_and_nothing_else_is(hub, folder):
    asked, answers = hub
    answers[released.RELEASED] = folder
    assert same(load(released.RELEASED).quantizer, Taslm.from_pretrained(released.RELEASED).quantizer)
    assert asked == [
        (released.RELEASED, ["*.json", "*.safetensors", "cosyvoice/*"]),
        (released.RELEASED, ["*.json", "*.safetensors"]),
    ]


@pytest.mark.parametrize("cls", [Taste, Taslm])
def test_no_network_is_one_sentence_that_says_what_to_do(hub, cls):
    with pytest.raises(TasteError) as problem:
        cls.from_pretrained("somebody/something")
    message = str(problem.value)
    assert "'somebody/something' is no folder here and could not be downloaded" in message
    assert "copy the model into a folder" in message and "\n" not in message


def test_a_missing_tokenizer_is_fetched_without_weights(hub, folder, copy):
    asked, answers = hub
    path = copy(settings=lambda s: s["asr_config"].update(_name_or_path="./storage/whisper-large-v3"))
    (path / "whisper_tokenizer").unlink()
    with pytest.raises(TasteError, match=r"put that model's tokenizer.json into .*whisper_tokenizer"):
        load(path)
    answers["openai/whisper-large-v3"] = folder / "whisper_tokenizer"
    assert load(path).tokenizer.get_vocab() == letters().get_vocab()
    assert asked == [("openai/whisper-large-v3", ["tokenizer.json"])] * 2


def test_a_tokenizer_of_another_model_is_refused(copy):
    folder = copy()
    (folder / "llama_tokenizer").unlink()
    (folder / "llama_tokenizer").mkdir()
    big = letters()
    big.add_tokens([f"<{i}>" for i in range(200)])
    big.save(str(folder / "llama_tokenizer" / "tokenizer.json"))
    with pytest.raises(TasteError, match="more tokens than the model"):
        Taslm.from_pretrained(folder)


def test_what_is_not_in_the_checkpoint_is_missed_only_when_used(hub, folder):
    model = Taste.from_pretrained(folder)
    with pytest.raises(TasteError, match=r"speaker_embed.onnx is not a file"):
        model.speaker_encoder.speaker_embedding(speech(1.0))
    with pytest.raises(TasteError, match=r"speech_tokenizer_v1.onnx is not a file"):
        model.unit_ids(speech(1.0))


# --- memory


def peak(fresh: bool = False) -> int:
    """Largest resident size so far, in bytes; fresh: from here on."""
    if fresh:
        Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets the peak of the memory")
def test_loading_needs_little_more_memory_than_the_weights(folder, tmp_path):
    llm = replace(LM_SIZES.llm, vocab_size=30_000, d_model=512, n_heads=8, n_kv_heads=4, head_dim=64, d_ff=4096)
    model = released.empty_taslm(replace(LM_SIZES, llm=llm))
    states = {"taslm": model.state_dict(), "quantizer": random_quantizer().state_dict()}
    tensors = to_original(states)
    tensors = {k: torch.ones(v.shape, dtype=v.dtype) if v.is_meta else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / WEIGHTS)
    described = json.loads((folder / "config.json").read_text())
    described["text_config"]["num_attention_heads"] = 8
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "llama_tokenizer").symlink_to(folder / "llama_tokenizer")
    weights = (tmp_path / WEIGHTS).stat().st_size
    assert weights > 80e6
    del model, states, tensors
    before = peak(fresh=True)
    model = released.load_taslm(tmp_path)
    loaded = peak() - before
    for tensor in model.state_dict().values():  # a number of every page of the file, which brings all of them in
        tensor.flatten().view(torch.uint8)[::4096].amax()
    used = peak() - before
    assert loaded < 0.25 * weights  # nothing was read yet, nor made to be overwritten
    assert 0.9 * weights < used < 1.15 * weights
