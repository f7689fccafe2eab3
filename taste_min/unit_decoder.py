"""The speech decoder: text and TASTE embeddings in, speech units out (paper section 3.1, speech decoder).

Text tokens and TASTE embeddings pass through an encoder each and are mixed by a learnt weighted sum. A causal
transformer reads the prompt `[sos, speaker, fused_1 .. fused_N, task]` and continues it with units at 50 Hz.

With `pronounced` (the mini preset) the text takes one position per sound instead of one per token, the vector of a
word's codes is repeated for its sounds, and a pointer says which sound is due; see phones.py and pointer.py.

Axes: B batch, N text tokens, L sounds, P = N + 3 prompt positions (pronounced: L + 3), U units, T = P + U positions,
D width, V = n_units + 1 classes (the last one ends the speech).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from .config import UnitDecoderConfig
from .errors import TasteError
from .phones import SoundReader, Sounds
from .pointer import MAX_STEP, Place, Pointer, lasted, pick, with_end
from .transformer import RelativeTransformer
from .unit_sampling import Sampling, limit, sample_units

IGNORE = -1
PADDING = -1.0  # value of padded input positions, as in the original; nothing attends to them

# parts of the original names -> ours; everything else is called the same
ORIGINAL_NAMES = {"fuse_encoded_audio_text_module.": "fusion.", ".norm1.": ".norm_mha.", ".norm2.": ".norm_ff."}


@dataclass(frozen=True)
class UnitPrediction:
    """Teacher-forced prediction. logits: (B, T, V). labels: (B, T), -1 where nothing is predicted. loss: scalar.

    With a pointer also step_logits (B, T, 4) and step_labels (B, T): by how many sounds it moves after each unit. Its
    cross-entropy is part of the loss.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    loss: torch.Tensor
    step_logits: torch.Tensor | None = None
    step_labels: torch.Tensor | None = None


@dataclass(frozen=True)
class GeneratedUnits:
    """units: (B, U) int64, -1 after the end. lengths: (B,). ended: (B,) bool, False = cut at the length limit.

    sounds: (B, U) the speech sound of each unit as index in `phones.SYMBOLS`, None without a pointer.
    """

    units: torch.Tensor
    lengths: torch.Tensor
    ended: torch.Tensor
    sounds: torch.Tensor | None = None


def label_smoothing_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """KL divergence to `1 - smoothing` on the label and the rest spread evenly, per labelled position.

    logits: (..., V); labels: (...), -1 = ignored. With smoothing 0 this is the mean cross-entropy.
    """
    if smoothing == 0:
        return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE)
    keep = labels != IGNORE
    log_probs = logits[keep].float().log_softmax(dim=-1)  # (n, V)
    target = torch.full_like(log_probs, smoothing / (log_probs.shape[-1] - 1))
    target.scatter_(1, labels[keep][:, None], 1 - smoothing)
    return F.kl_div(log_probs, target, reduction="sum") / keep.sum()


class WeightedSum(nn.Module):
    """softmax(weights)[0] * audio + softmax(weights)[1] * text, balanced at the start."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, audio: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        share = self.weights.softmax(dim=0)
        return share[0] * audio + share[1] * text


@dataclass(frozen=True)
class Prompts:
    """rows: B prompts (P, D). With a pointer also sounds, and fused (B, L, D): what is to be said, sound by sound."""

    rows: list[torch.Tensor]
    sounds: Sounds | None = None
    fused: torch.Tensor | None = None


class UnitDecoder(nn.Module):
    """Text encoder, audio encoder, fusion, and the language model over units."""

    def __init__(self, config: UnitDecoderConfig):
        super().__init__()
        self.config = config
        d_model = config.d_model
        sizes = {
            "d_model": d_model,
            "n_heads": config.n_heads,
            "d_ff": config.d_ff,
            "causal": True,  # the encoders too: position i of text and audio sees 0 .. i
            "dropout": config.dropout,
            "position_dropout": config.position_dropout,
        }
        if config.pronounced:
            self.reader = SoundReader(config.d_text)
            self.place = Place(d_model)
            self.step_decoder = nn.Linear(d_model, MAX_STEP + 1)
        else:
            self.text_embedding = nn.Embedding(config.vocab_size, config.d_text)
        self.text_encoder = RelativeTransformer(config.d_text, n_layers=config.n_text_layers, **sizes)
        self.text_encoder_affine_layer = nn.Linear(d_model, d_model)
        self.audio_embed_affine_layer = nn.Linear(config.d_taste, config.d_audio)
        self.audio_token_encoder = RelativeTransformer(config.d_audio, n_layers=config.n_audio_layers, **sizes)
        self.audio_token_encoder_affine_layer = nn.Linear(d_model, d_model)
        self.fusion = WeightedSum()
        self.spk_embed_affine_layer = nn.Linear(config.d_speaker, d_model)
        self.llm_embedding = nn.Embedding(2, d_model)  # start of sequence, task
        self.speech_embedding = nn.Embedding(config.n_units, d_model)
        self.llm = RelativeTransformer(d_model, n_layers=config.n_layers, relu=True, **sizes)
        self.llm_decoder = nn.Linear(d_model, config.n_units + 1)

    @property
    def end_of_speech(self) -> int:
        return self.config.n_units

    def fuse(
        self, text_ids: torch.Tensor, text_lengths: torch.Tensor, taste_embeddings: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, Sounds | None]:
        """What is to be said, (B, N, D), pronounced (B, L, D); how many positions are real, (B,); the sounds if any.

        text_ids: (B, N), text_lengths: (B,), taste_embeddings: (B, N, d_taste) or None = text only.
        """
        valid = torch.arange(text_ids.shape[1], device=text_ids.device) < text_lengths[:, None]  # (B, N)
        audio, sounds = None, None
        if taste_embeddings is not None:
            audio = self.audio_token_encoder(self.audio_embed_affine_layer(taste_embeddings), valid)
            audio = self.audio_token_encoder_affine_layer(audio)  # (B, N, D)
        if self.config.pronounced:
            sounds = self.reader.sounds(text_ids, text_lengths)
            text, text_lengths = self.reader(sounds), sounds.lengths  # (B, L, d_text)
            audio = None if audio is None else pick(audio, sounds.tokens)
            valid = sounds.symbols > 0  # (B, L)
        else:
            text = self.text_embedding(text_ids.clamp(min=0))
        text = self.text_encoder_affine_layer(self.text_encoder(text, valid))  # (B, N, D) or (B, L, D)
        return text if audio is None else self.fusion(audio, text), text_lengths, sounds

    def prompts(
        self,
        text_ids: torch.Tensor,
        text_lengths: torch.Tensor,
        speaker_embedding: torch.Tensor,
        taste_embeddings: torch.Tensor | None,
    ) -> Prompts:
        """`[sos, speaker, fused_1 .. fused_N, task]` of every sample."""
        fused, lengths, sounds = self.fuse(text_ids, text_lengths, taste_embeddings)
        speaker = self.spk_embed_affine_layer(F.normalize(speaker_embedding, dim=-1)).to(fused)  # (B, D)
        sos, task = self.llm_embedding.weight.to(fused)
        rows = [
            torch.cat((sos[None], speaker[i, None], fused[i, :n], task[None]))  # (P, D)
            for i, n in enumerate(lengths.tolist())
        ]
        return Prompts(rows, sounds, fused)

    def forward(
        self,
        text_ids: torch.Tensor,
        text_lengths: torch.Tensor,
        units: torch.Tensor,
        unit_lengths: torch.Tensor,
        speaker_embedding: torch.Tensor,
        taste_embeddings: torch.Tensor | None = None,
        text_only: bool = False,
        pointer: torch.Tensor | None = None,
    ) -> UnitPrediction:
        """Teacher forcing: predict every unit, and the end, from the prompt and the units before it.

        text_ids (B, N), units (B, U): padded with anything beyond text_lengths (B,) and unit_lengths (B,).
        speaker_embedding: (B, d_speaker). taste_embeddings: (B, N, d_taste), one vector per text token.
        text_only: leave the audio branch out (the paper's text-only baseline). pointer: (B, U), the sound that each
        unit belongs to; a decoder that is `pronounced` needs it. Raises TasteError without it.
        """
        prompts = self.prompts(text_ids, text_lengths, speaker_embedding, self._audio(taste_embeddings, text_only))
        embedded = self.speech_embedding(units.clamp(min=0)).to(prompts.rows[0])  # (B, U, D)
        if self.training and self.config.unit_dropout:
            # The past units alone say much about the next one. Hiding some of them makes the decoder listen to
            # text and codes from the first steps on, and robust to its own mistakes.
            # dev: unit-dropout
            share = self.config.unit_dropout * torch.rand(len(units), 1, device=units.device)
            embedded = embedded * (torch.rand(units.shape, device=units.device) >= share)[..., None]
        lengths = unit_lengths.tolist()
        place, steps = self._places(prompts, pointer, unit_lengths)  # (B, U + 1, D), (B, U)
        sequences, labels, step_labels = [], [], []
        for i, (prompt, n) in enumerate(zip(prompts.rows, lengths, strict=True)):
            sequence = torch.cat((prompt, embedded[i, :n]))  # (T, D)
            if place is not None:
                silent = sequence.new_zeros(len(prompt) - 1, sequence.shape[1])
                sequence = sequence + torch.cat((silent, place[i, : n + 1]))
            sequences.append(sequence)
            # the task position, last of the prompt, predicts the first unit
            silent = units.new_full((len(prompt) - 1,), IGNORE)
            labels.append(torch.cat((silent, units[i, :n], units.new_full((1,), self.end_of_speech))))  # (T,)
            if steps is not None:
                step_labels.append(torch.cat((silent, steps[i, :n], units.new_full((1,), IGNORE))))  # (T,)
        labels = pad_sequence(labels, batch_first=True, padding_value=IGNORE).long()  # (B, T)
        x = pad_sequence(sequences, batch_first=True, padding_value=PADDING)  # (B, T, D)
        total = torch.tensor([len(sequence) for sequence in sequences], device=x.device)
        valid = torch.arange(x.shape[1], device=x.device) < total[:, None]  # (B, T)
        hidden = self.llm(x, valid)  # (B, T, D)
        logits = self.llm_decoder(hidden)  # (B, T, V)
        loss = label_smoothing_loss(logits, labels, self.config.label_smoothing)
        if steps is None:
            return UnitPrediction(logits, labels, loss)
        step_labels = pad_sequence(step_labels, batch_first=True, padding_value=IGNORE).long()  # (B, T)
        step_logits = self.step_decoder(hidden)  # (B, T, 4)
        return UnitPrediction(
            logits, labels, loss + label_smoothing_loss(step_logits, step_labels), step_logits, step_labels
        )

    def _places(
        self, prompts: Prompts, pointer: torch.Tensor | None, unit_lengths: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What is heard of the pointer before every unit and the end, (B, U + 1, D), and its steps, (B, U)."""
        if not self.config.pronounced:
            return None, None
        if pointer is None:
            raise TasteError(
                "this unit decoder follows a pointer; give the sound of every unit (corpora with word times)."
            )
        pointer = with_end(pointer, unit_lengths, prompts.sounds)  # (B, U + 1)
        words = prompts.sounds.tokens.gather(1, pointer)
        place = self.place(pick(prompts.fused, pointer), lasted(pointer), lasted(words))
        return place, pointer.diff(dim=1).clamp(0, MAX_STEP)

    @torch.no_grad()
    def generate(
        self,
        text_ids: torch.Tensor,
        text_lengths: torch.Tensor,
        speaker_embedding: torch.Tensor,
        taste_embeddings: torch.Tensor | None = None,
        text_only: bool = False,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> GeneratedUnits:
        """Units for a batch of prompts of any lengths; arguments as in `forward`. Call in eval mode.

        Prompts are padded on the left, so that the distance between two positions is the same in every row and
        each row gets what it would get alone. Raises TasteError when a text is empty.
        """
        if text_lengths.min() < 1:
            raise TasteError("there is no text to speak; give at least one token per utterance.")
        sampling = sampling or Sampling()
        prompts = self.prompts(text_ids, text_lengths, speaker_embedding, self._audio(taste_embeddings, text_only))
        sizes = torch.tensor([len(prompt) for prompt in prompts.rows], device=text_ids.device)  # (B,) P
        x = pad_sequence(prompts.rows, batch_first=True, padding_value=PADDING, padding_side="left")  # (B, P, D)
        valid = torch.arange(x.shape[1], device=x.device) >= x.shape[1] - sizes[:, None]  # (B, P)
        shortest = limit(sampling.min_units, sampling.min_ratio, text_lengths + 3)  # (B,)
        longest = limit(sampling.max_units, sampling.max_ratio, text_lengths + 3)  # (B,)

        caches = self.llm.new_caches()
        one = valid.new_ones(len(sizes), 1)
        drawn, due = [], []
        ended = valid.new_zeros(len(sizes))
        lengths = torch.zeros_like(longest)
        pointer = Pointer(prompts.sounds, prompts.fused) if self.config.pronounced else None
        for step in range(int(longest.max())):
            if pointer:
                x[:, -1] = x[:, -1] + pointer.heard(self.place)[:, 0]
            hidden = self.llm(x, valid, caches)[:, -1]  # (B, D)
            too_early = step < shortest
            if pointer:
                too_early = too_early | ~pointer.near_end
                due.append(pointer.due)
                pointer.move(self.step_decoder(hidden))
            token = sample_units(self.llm_decoder(hidden), too_early, sampling, generator)  # (B,)
            running = ~ended & (step < longest)
            ended = ended | (running & (token == self.end_of_speech))
            running = running & ~ended
            lengths = lengths + running
            drawn.append(torch.where(running, token, IGNORE))
            if not (running & (step + 1 < longest)).any():
                break
            x = self.speech_embedding(token.clamp(max=self.end_of_speech - 1))[:, None].to(x)  # (B, 1, D)
            valid = torch.cat((valid, one), dim=1)
        units = torch.stack(drawn, dim=1)[:, : int(lengths.max())]  # (B, U)
        sounds = torch.stack(due, dim=1)[:, : units.shape[1]] if due else None
        return GeneratedUnits(units, lengths, ended, sounds)

    @staticmethod
    def _audio(taste_embeddings: torch.Tensor | None, text_only: bool) -> torch.Tensor | None:
        if text_only:
            return None
        if taste_embeddings is None:
            raise TasteError("the unit decoder needs TASTE embeddings; pass them, or text_only=True.")
        return taste_embeddings


def rename_original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Original names without the leading `speech_decoder.` -> ours."""
    for theirs, ours in ORIGINAL_NAMES.items():
        weights = {key.replace(theirs, ours): value for key, value in weights.items()}
    return weights
