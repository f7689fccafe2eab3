"""Speech units: the discrete sequence that the unit decoder writes and the flow reads (paper section 3.1).

The paper's units are the codes of the S3 tokenizer (s3.py), which learns them while it learns to write text: 4096
units, 50 per second. The mini preset has its own: 2048 clusters of hidden states of Whisper base, seen from the
directions that tell speech sounds apart, with the pitch and the coarse spectrum. That network shares nothing with the
encoder under study (Whisper tiny.en), so that units favour none of its layers.

Axes: M mel bands, F mel frames, T encoder frames, U units, D feature width, d projected width, K clusters.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .audio import HOP, MEL_HOP, SAMPLE_RATE, VOCODER_RATE, WINDOW_SECONDS, check_audio, log_mel
from .errors import TasteError
from .files import write_whole
from .pitch import mel_pitch

UNIT_SAMPLES = 2 * HOP  # samples of one unit at 16 kHz: 50 units per second
PITCH_WEIGHT = 3.0  # of the standardised pitch; the spread of one speech sound along each direction counts 1
SHAPE_WEIGHT = 1.0  # of each standardised cepstrum
N_SHAPE, N_DIRECTIONS = 6, 48  # cepstra, directions of the hidden states
RIDGE = 0.1  # share of the mean variance added to the spread of the sounds: directions in which they hardly vary


def relative_pitch(wav: torch.Tensor, n_units: int) -> torch.Tensor:
    """Natural log of F0 over its median in the recording, 0 where there is no voice; wav at 16 kHz -> (n_units,).

    Limited to half an octave and a bit either way, so that octave errors of the tracker do not lead a cluster.
    """
    f0 = mel_pitch(torchaudio.functional.resample(wav, SAMPLE_RATE, VOCODER_RATE))  # (F,) Hz
    middle = (torch.arange(n_units) + 0.5) * UNIT_SAMPLES / SAMPLE_RATE * VOCODER_RATE / MEL_HOP
    f0 = f0[middle.long().clamp(max=len(f0) - 1)]  # (U,)
    voiced = f0 > 0
    if not voiced.any():
        return torch.zeros(n_units)
    return torch.where(voiced, (f0 / f0[voiced].median()).clamp(min=1e-3).log(), 0.0).clamp(-0.5, 0.5)


class WhisperStates:
    """Hidden states of one layer of a Whisper encoder as features for clustering: `states(wav) -> (U, D + 7)`.

    The last columns are the pitch and six cepstra. A network trained to write text hides pitch and loudness in so small
    a part of its states that clusters lose them, and speech made from the units could not follow the original.

    The recording is read as it is, without the padding to 30 s that Whisper was trained with: it is six times faster,
    and a unit must not depend on how much silence follows. Units are learnt from the same unpadded states.
    """

    def __init__(self, encoder: nn.Module | None, layer: int = 4):
        """encoder: a transformers Whisper encoder; None = see `from_assets`. layer: how many layers are applied."""
        self.given, self.layer = encoder, layer

    @classmethod
    def from_assets(cls, layer: int = 4) -> "WhisperStates":
        """Whisper base of the mini preset; fetched and loaded when the first recording comes."""
        return cls(None, layer)

    @functools.cached_property
    def encoder(self) -> nn.Module:
        from .assets import fetch
        from .ct2 import load_whisper

        encoder = self.given
        if encoder is None:
            encoder = load_whisper(fetch("whisper-base")).model.encoder
        return encoder.eval()

    @torch.no_grad()
    def __call__(self, wav: torch.Tensor) -> torch.Tensor:
        encoder = self.encoder
        n_units = len(wav) // UNIT_SAMPLES
        mel = log_mel(wav, encoder.config.num_mel_bins, pad=False)[None]  # (1, M, F)
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)[:, :n_units]  # (1, U, D)
        x = x + encoder.embed_positions.weight[:n_units]
        for layer in encoder.layers[: self.layer]:
            x = layer(x, None)
        shape = per_unit(spectral_shape(mel[0], N_SHAPE), n_units)  # (U, 6)
        # dev: units-with-pitch
        return torch.cat((x[0], relative_pitch(wav, n_units)[:, None], shape), dim=1)  # (U, D + 7)


def spectral_shape(mel: torch.Tensor, n_coefficients: int) -> torch.Tensor:
    """Cepstra, the coarse shape of each frame of a log-mel (M, F), minus their mean: (n_coefficients, F)."""
    bands = torch.arange(len(mel)) + 0.5
    basis = torch.cos(math.pi / len(mel) * torch.arange(n_coefficients)[:, None] * bands)  # (C, M) cosine transform
    x = basis @ mel
    return x - x.mean(dim=1, keepdim=True)


def per_unit(x: torch.Tensor, n_units: int) -> torch.Tensor:
    """Mean over the two mel frames of every unit: (C, F) -> (U, C)."""
    return x[:, : 2 * n_units].unflatten(1, (-1, 2)).mean(dim=2).T


def cepstra(wav: torch.Tensor, n_coefficients: int = 13) -> torch.Tensor:
    """Normalised cepstra with their first and second differences, the features without a network: (U, 39).

    Each coefficient has mean 0 and variance 1 over the recording, which takes out much of the speaker.
    """
    x = spectral_shape(log_mel(wav, 80, pad=False), n_coefficients)  # (13, F)
    x = x / x.std(dim=1, keepdim=True).clamp(min=1e-5)
    stack = [x]
    for _ in range(2):
        padded = F.pad(stack[-1][None], (2, 2), mode="replicate")[0]
        stack.append((padded[:, 3:-1] - padded[:, 1:-3] + 2 * (padded[:, 4:] - padded[:, :-4])) / 10)
    return per_unit(torch.cat(stack), len(wav) // UNIT_SAMPLES)  # (U, 39)


def nearest(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Index of the nearest centroid (K, D) of every row of x: (n, D) -> (n,)."""
    offset = centroids.square().sum(dim=1)
    return torch.cat([(offset - 2 * part @ centroids.T).argmin(dim=1) for part in x.split(16384)])


def kmeans(x: torch.Tensor, n_clusters: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's algorithm from random rows of x: (n, D) -> centroids (K, D). An empty cluster moves to a random row."""
    centroids = x[torch.randperm(len(x), generator=generator)[:n_clusters]].clone()
    for _ in range(iterations):
        labels = nearest(x, centroids)
        counts = torch.bincount(labels, minlength=n_clusters)
        sums = torch.zeros_like(centroids).index_add_(0, labels, x)
        spare = x[torch.randint(len(x), (n_clusters,), generator=generator)]
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], spare)
    return centroids


def sound_directions(x: torch.Tensor, labels: Sequence[str], n_directions: int) -> torch.Tensor:
    """Linear discriminant analysis: the directions in which frames x (n, D) with different labels differ most, compared
    with how much frames of one label differ. (D, n_directions); along each, one label has about unit variance.
    """
    names = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    y, x = torch.tensor([names[label] for label in labels]), x.double()
    counts = torch.bincount(y).double()
    means = torch.zeros(len(names), x.shape[1], dtype=x.dtype).index_add_(0, y, x) / counts[:, None]
    within = torch.cov((x - means[y]).T, correction=0)  # (D, D)
    within += RIDGE * within.diagonal().mean() * torch.eye(len(within))
    between = torch.cov(means.T, correction=0, aweights=counts)
    whiten = torch.linalg.inv(torch.linalg.cholesky(within)).T
    vectors = torch.linalg.eigh(whiten.T @ between @ whiten).eigenvectors  # ascending
    return (whiten @ vectors[:, -n_directions:]).float()


def projection(x: torch.Tensor, labels: Sequence[str] | None) -> torch.Tensor:
    """How features (n, D) are seen before clustering: (D, d).

    Without labels every column is divided by its standard deviation. With the speech sound of every frame ("" =
    unknown) the hidden states are seen from the directions of the sounds; pitch and cepstra follow with their weights.
    """
    scale = torch.diag(1 / x.std(dim=0).clamp(min=1e-4))
    if labels is None:
        return scale
    # dev: sound-directions
    n_states = x.shape[1] - 1 - N_SHAPE
    known = torch.tensor([label != "" for label in labels])
    if not known.any():
        raise TasteError("in none of the recordings could the speech sounds be found; check that the texts are right.")
    directions = sound_directions(x[known, :n_states], [label for label in labels if label], N_DIRECTIONS)
    weights = torch.tensor([PITCH_WEIGHT] + N_SHAPE * [SHAPE_WEIGHT])
    return torch.block_diag(directions, scale[n_states:, n_states:] * weights)


class MiniUnits:
    """Units as clusters of projected frame features: the nearest of K centroids, 50 per second."""

    unit_rate = 50  # Hz

    def __init__(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        mean: torch.Tensor,
        projection: torch.Tensor,
        centroids: torch.Tensor,
    ):
        """features: wav at 16 kHz -> (U, D), `WhisperStates` or `cepstra`. mean: (D,). projection: (D, d).
        centroids: (K, d)."""
        self.features = features
        self.mean, self.projection, self.centroids = mean.float(), projection.float(), centroids.float()

    @property
    def n_units(self) -> int:
        return len(self.centroids)

    @classmethod
    def fit(
        cls,
        wavs: Iterable[torch.Tensor],
        features: Callable[[torch.Tensor], torch.Tensor] | None = None,
        sounds: Callable[[int, int], Sequence[str]] | None = None,
        n_units: int = 2048,
        max_frames: int = 150_000,
        iterations: int = 20,
        seed: int = 0,
    ) -> "MiniUnits":
        """Cluster the frames of training recordings, each (samples,) at 16 kHz; features default to Whisper base.

        sounds: number of a recording and its units -> the speech sound of every unit, see `projection`; None = without.
        At most max_frames frames, drawn at random, are clustered. Raises TasteError with fewer than 4 per unit.
        """
        features = features or WhisperStates.from_assets()
        frames = [features(check_audio(wav)) for wav in wavs]
        labels = None
        if sounds is not None:
            labels = [label for i, part in enumerate(frames) for label in sounds(i, len(part))]
        frames = torch.cat(frames)  # (n, D)
        if len(frames) < 4 * n_units:
            raise TasteError(f"{len(frames)} frames are too few for {n_units} units; give at least {4 * n_units}.")
        # Rounded as they will be stored, so that a saved tokenizer gives the same units.
        mean, matrix = frames.mean(dim=0).half().float(), projection(frames, labels).half().float()
        generator = torch.Generator().manual_seed(seed)
        frames = frames[torch.randperm(len(frames), generator=generator)[:max_frames]]
        centroids = kmeans((frames - mean) @ matrix, n_units, iterations, generator)
        return cls(features, mean, matrix, centroids.half())

    def encode(self, wav: torch.Tensor) -> torch.Tensor:
        """Units of a recording (samples,) at 16 kHz: (U,) int64 with U = floor(50 * seconds).

        More than 30 s are read in windows of 30 s. Raises TasteError for unusable audio.
        """
        windows = check_audio(wav).split(WINDOW_SECONDS * SAMPLE_RATE)
        if len(windows[-1]) < UNIT_SAMPLES:
            windows = windows[:-1]
        return torch.cat([nearest((self.features(w) - self.mean) @ self.projection, self.centroids) for w in windows])

    def save(self, path: str | Path) -> None:
        """Write mean, projection and centroids as float16 safetensors; the network of the features is not in it."""
        tensors = {"mean": self.mean, "projection": self.projection, "centroids": self.centroids}
        layer = getattr(self.features, "layer", -1)  # -1 = cepstra
        write_whole(path, save({k: v.half().contiguous() for k, v in tensors.items()}, {"layer": str(layer)}))

    @classmethod
    def load(cls, path: str | Path, features: Callable[[torch.Tensor], torch.Tensor] | None = None) -> "MiniUnits":
        """Read what `save` wrote; features default to those the file names. Raises TasteError for another file."""
        try:
            with safe_open(str(path), "pt") as file:
                layer = int(file.metadata()["layer"])
                tensors = {name: file.get_tensor(name) for name in ("mean", "projection", "centroids")}
            d_features, d_projected = tensors["projection"].shape
            n_units, d_centroids = tensors["centroids"].shape
            if tensors["mean"].shape != (d_features,) or d_centroids != d_projected or not n_units:
                raise ValueError("the sizes do not fit")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise TasteError(f"{path} holds no speech units; make them with `taste-min train units`.") from error
        if features is None:
            features = cepstra if layer < 0 else WhisperStates.from_assets(layer)
        return cls(features, **tensors)
