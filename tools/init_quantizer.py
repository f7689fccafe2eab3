"""Place the codebooks of the mini preset by k-means on word vectors of the (synthetic) mini corpus; nothing is trained.

The aggregator is Whisper's decoder as initialised.

    python tools/init_quantizer.py MANIFEST [--words 20000] [--seed 0]
"""

import argparse
import json
from dataclasses import replace

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from taste_min import assets, config
from taste_min.aggregator import Aggregator
from taste_min.asr import SpeechRecognizer
from taste_min.audio import read_audio
from taste_min.corpus import load_manifest
from taste_min.encoder import WhisperEncoder
from taste_min.objectives import start_quantizer
from taste_min.quantizer import ResidualVQ
from taste_min.repro import commit, seed_everything
from taste_min.tokenizer import CHECKPOINTS, Taste


def word_vectors(taste: Taste, utterances: list, n_words: int) -> torch.Tensor:
    """Aggregator output of one token per word, from as many utterances as it takes: (n_words, D)."""
    vectors = []
    for utterance in tqdm(utterances, mininterval=10):
        tower = taste.look_inside(read_audio(utterance.audio, convert=True), utterance.text)
        ids = tower.text.word_ids
        first = torch.cat([torch.tensor([True]), ids[1:] != ids[:-1]])
        vectors.append(tower.aggregator.pooled[0, first])  # (W, D)
        if sum(map(len, vectors)) >= n_words:
            break
    return torch.cat(vectors)[:n_words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seed_everything(args.seed)

    preset, recognizer = config.mini(), SpeechRecognizer.from_folder(assets.fetch("whisper-tiny-en"))
    encoder = WhisperEncoder(preset.encoder)
    encoder.encoder.load_state_dict(recognizer.whisper.model.encoder.state_dict())
    aggregator = Aggregator(preset.aggregator).load_whisper_decoder(recognizer.whisper.model.decoder)
    quantizer = ResidualVQ(replace(preset.rvq, quantizer_dropout=False))
    taste = Taste(preset, encoder, aggregator.eval(), quantizer, recognizer.tokenizer, recognizer)

    train = [utterance for utterance in load_manifest(args.manifest) if utterance.split == "train"]
    order = torch.randperm(len(train)).tolist()
    vectors = word_vectors(taste, [train[i] for i in order], args.words)
    with torch.no_grad():
        start_quantizer(quantizer, vectors, n_batches=1)
        result = quantizer.train()(vectors[None])

    folder = CHECKPOINTS / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    # Half precision for the weights; the moving averages start again from them.
    weights = {name: tensor.half().contiguous() for name, tensor in quantizer.state_dict().items()}
    save_file(weights, folder / "quantizer.safetensors")
    left = (result.quantized[0] - vectors).square().sum() / (vectors - vectors.mean(dim=0)).square().sum()
    manifest = {
        "stage": "codebooks by k-means, nothing trained",
        "data": "mini corpus (synthetic speech), split train",
        "words": len(vectors),
        "utterances_read": len(train),
        "seed": args.seed,
        "commit": commit(),
        "relative_error": round(float(left), 4),
        "perplexity": [round(float(value), 1) for value in result.perplexity],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
