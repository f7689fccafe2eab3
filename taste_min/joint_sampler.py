"""Choosing the next text token and the next codes: sampling rules of the joint language model (paper section 3.2).

Axes: V vocabulary.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from tokenizers import Tokenizer

from .errors import TasteError

LOW = -1e5  # score of what must not be chosen
MANY = 1024  # of the best tokens nearly always hold enough of the probability
SPOKEN = set(".,'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


@dataclass(frozen=True)
class JointSampling:
    """extra_words: words after which a sentence may end the text; max_factor times as many end it in any case.

    max_tokens: hard limit of generated text tokens. top_p: 0 takes the best; taste_top_p is per codebook and has no
    effect on the embedding head. The repetition penalty (1 = none) also counts the prompt. stop_id: a text token that
    ends the text at once. pad_text_at_end: while the last codes are awaited the text side is `pad_text`, as in
    training; False feeds one more sampled token, as the original does (it shows only for a delay above 1).
    """

    extra_words: int = 8
    max_factor: int = 5  # dev: word-limit
    max_tokens: int = 256
    top_p: float = 0.9
    temperature: float = 1.0
    repetition_penalty: float = 1.1
    taste_top_p: float = 0.0
    stop_id: int | None = None
    pad_text_at_end: bool = True  # dev: pad-text-at-end

    def __post_init__(self):
        if min(self.extra_words, self.max_factor, self.max_tokens) < 1:
            raise TasteError("extra_words, max_factor and max_tokens must be at least 1.")
        if not (0 <= self.top_p <= 1 and 0 <= self.taste_top_p <= 1):
            raise TasteError("top_p and taste_top_p must lie in 0..1; 0 always takes the best.")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise TasteError("temperature and repetition_penalty must be above 0.")


@dataclass(frozen=True)
class SamplerTables:
    """What the machine must know of each text token. word_start, sentence_end, banned: (V,) bool."""

    word_start: torch.Tensor
    sentence_end: torch.Tensor
    banned: torch.Tensor


@lru_cache(maxsize=8)
def sampler_tables(tokenizer: Tokenizer, vocab_size: int, original: bool = False) -> SamplerTables:
    """Decode every token once; the result is cached per tokenizer.

    A token starts a word when its text starts with a space, or when it is a special token. Banned are special tokens,
    ids without text, and white space other than one leading space, so that the words of the text and of the speech
    always agree. A text that contains one of .?! can end the sentence.
    original: the released system's rules instead. They ban every token that has no letter, digit, comma, apostrophe or
    full stop, so that system can never write a question mark, and only a full stop ends a sentence.
    """
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    texts = [_token_text(tokenizer, index) for index in range(vocab_size)]
    word_start = [index in special or text.startswith(" ") for index, text in enumerate(texts)]
    if original:
        banned = [
            text == "<|end_of_text|>" or (text != "." and (not SPOKEN & set(text) or "\n" in text)) for text in texts
        ]
    else:  # dev: punctuation-allowed
        banned = [index in special or not _is_word_piece(text) for index, text in enumerate(texts)]
    ends = "." if original else ".?!"
    sentence_end = [any(mark in text for mark in ends) for text in texts]
    return SamplerTables(torch.tensor(word_start), torch.tensor(sentence_end), torch.tensor(banned))


def _token_text(tokenizer: Tokenizer, index: int) -> str:
    """The text of one token with its leading space; empty for ids that the tokenizer does not have."""
    raw = tokenizer.id_to_token(index)
    if raw is None:
        return ""
    text = tokenizer.decode([index], skip_special_tokens=False)
    # SentencePiece decoders drop the space at the beginning of a text.
    return " " + text if raw.startswith("\u2581") and not text.startswith(" ") else text


def _is_word_piece(text: str) -> bool:
    """True when no white space is left after removing one leading space, and something is."""
    body = text.removeprefix(" ")
    return body != "" and not any(character.isspace() for character in body)


def first_bans(tables: SamplerTables, banned: torch.Tensor) -> torch.Tensor:
    """banned (V,) and, for the first token of a continuation, what starts no word, where the vocabulary knows the
    difference."""
    allowed = tables.word_start & ~banned
    return ~allowed if allowed.any() else banned  # dev: first-token-starts-a-word


def keep_top_p(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """scores: (V,). Lowers what lies beyond the cumulative probability top_p; the best always stays."""
    if top_p == 1:  # rounding of the cumulative sum must not cut the tail
        return scores.clone()
    total = scores.logsumexp(-1)
    for n in (min(MANY, len(scores)), len(scores)):  # sorting the whole vocabulary takes longer than to choose from it
        ordered, order = scores.topk(n)
        within = (ordered - total).exp().cumsum(-1) <= top_p
        if not within[-1]:
            break
    kept = order[: max(1, int(within.sum()))]
    return torch.full_like(scores, LOW).index_copy(0, kept, scores[kept])


def sample_text(
    scores: torch.Tensor, history: list[int], sampling: JointSampling, banned: torch.Tensor, generator: torch.Generator
) -> int:
    """scores: (V,) on the CPU. The original's order: bans, top-p, repetition penalty, temperature."""
    scores = scores.float().masked_fill(banned, LOW)  # dev: float32-sampling
    if sampling.top_p == 0:
        return int(scores.argmax())
    scores = keep_top_p(scores, sampling.top_p)
    seen = torch.tensor(sorted(set(history)), dtype=torch.long)
    penalised = scores[seen]
    penalty = sampling.repetition_penalty
    scores[seen] = torch.where(penalised < 0, penalised * penalty, penalised / penalty)
    return int(torch.multinomial((scores / sampling.temperature).softmax(-1), 1, generator=generator))
