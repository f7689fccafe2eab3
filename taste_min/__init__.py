"""taste_min: text-aligned speech tokenization and embedding (TASTE, arXiv 2504.07053), small enough to read.

`import taste_min` is light: torch and transformers are imported when a name that needs them is first used.
"""

from importlib import import_module

from . import _torchaudio  # noqa: F401  must run before anything imports torchaudio

__version__ = "0.1.0"

# public name -> module that defines it
_HOME = {
    "TasteError": "errors",
    "TasteConfig": "config",
    "WhisperEncoder": "encoder",
    "Aggregator": "aggregator",
    "ResidualVQ": "quantizer",
    "UnitDecoder": "unit_decoder",
    "Flow": "flow",
    "Vocoder": "vocoder",
    "Taste": "tokenizer",
    "TasteTokens": "tokens",
    "Decoded": "speech_decoder",
    "Taslm": "taslm",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'taste_min' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *_HOME])
