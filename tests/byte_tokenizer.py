"""A byte-level tokenizer with Whisper's markers and no merges, for tests of what reads its output."""

from tokenizers import Tokenizer, models, pre_tokenizers

START, NO_TIMESTAMPS, END = 256, 257, 258


def byte_tokenizer() -> Tokenizer:
    """256 bytes and three markers; a text is as many tokens as it has bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(letters)}
    vocab |= {"<|startoftranscript|>": START, "<|notimestamps|>": NO_TIMESTAMPS, "<|endoftext|>": END}
    return Tokenizer(models.BPE(vocab=vocab, merges=[]))
