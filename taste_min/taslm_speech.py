"""What the joint language model does with speech: continue it, speak a text, say how likely it is (paper section 4.2).

Axes: B batch, N positions, T text tokens, W words, R quantiser layer, D width.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from .errors import TasteError
from .generate import Generation, Machine, Prompt, generate
from .joint_sampler import JointSampling, first_bans, sample_text, sampler_tables
from .taslm_layout import IGNORE, Batch, collate
from .text import TokenizedText, Word, split_words, tokenize
from .tokens import TasteTokens

if TYPE_CHECKING:
    from .taslm import Taslm

SECONDS_PER_WORD = 0.35  # a guess for words whose speech does not exist yet


class PositionLosses(NamedTuple):
    """text, codes: (B, N), 0 where there is no label. text: nats of the next token. codes: mean nats of the codes of a
    word (token heads), or mean squared error of its codebook vector (embedding head)."""

    text: torch.Tensor
    codes: torch.Tensor


@torch.no_grad()
def position_losses(model: "Taslm", batch: Batch) -> PositionLosses:
    """How badly every label of a batch was predicted, with the mean of the embedding head, without its noise."""
    output = model(batch)
    text = F.cross_entropy(
        output.text_logits.transpose(1, 2).float(), batch.text_labels, ignore_index=IGNORE, reduction="none"
    )
    labels, known = batch.taste_labels, batch.taste_labels[..., 0] >= 0
    if output.taste.logits is not None:
        nats = F.cross_entropy(
            output.taste.logits.movedim(-1, 1), labels, ignore_index=IGNORE, reduction="none"
        )  # (B, N, R)
        return PositionLosses(text, nats.mean(-1))
    error = (output.taste.mean - model.quantizer.embed_codes(labels)).square().mean(-1)
    return PositionLosses(text, error * known)


class Score(NamedTuple):
    """text: nats per token. codes: mean nats per code of a word, or its squared error with the embedding head. loss:
    the training loss without divergence. Lower is more expected."""

    text: list[float]
    codes: list[float]
    loss: float


def read_text(model: "Taslm", words: list[str]) -> TokenizedText:
    """Words as the language model reads them. Raises TasteError when the model came without its tokenizer."""
    if model.tokenizer is None:
        raise TasteError("this language model has no tokenizer; load it with Taslm.from_pretrained.")
    return tokenize(model.tokenizer, words)


def score(model: "Taslm", tokens: TasteTokens) -> Score:
    """How well the model expects speech, word by word. Raises TasteError for tokens without codes."""
    text = read_text(model, [word.text for word in tokens.words])
    if not len(tokens.codes) or tokens.codes.min() < 0:
        raise TasteError("these tokens hold no codes; encode the recording with a model that has a quantizer.")
    batch = collate([model.layout(text.token_ids, text.word_ids, tokens.codes)]).to(model.device)
    losses = position_losses(model, batch)
    nats, codes = losses.text[batch.text_labels >= 0], losses.codes[batch.taste_labels[..., 0] >= 0]
    loss = model.config.text_weight * nats.mean() + model.config.taste_weight * codes.mean()
    return Score(nats.tolist(), codes.tolist(), float(loss))


def continue_speech(
    model: "Taslm",
    tokens: TasteTokens,
    sampling: JointSampling | None = None,
    seed: int = 0,
    with_prompt: bool = False,
) -> TasteTokens:
    """What comes after `tokens`, in the voice of their speaker; with_prompt: after the prompt itself.

    n_text_tokens counts tokens of the language model. The times of new words are guesses at the prompt's rate, since
    nobody has spoken them yet. A text that reaches its length limit is cut back, see `whole_sentences`.
    """
    made = _generate(model, _prompt(model, tokens), sampling or JointSampling(), seed)
    new = _tokens(model, made, tokens.speaker_embedding, tokens.seconds / len(tokens.words))
    return joined(tokens, new) if with_prompt else new


@torch.no_grad()
def continue_text(
    model: "Taslm", tokens: TasteTokens, sampling: JointSampling | None = None, seed: int = 0
) -> TasteTokens:
    """The cascade that TASLM is compared with: the text model as it was before its training continues the transcript
    by the same rules. The result has no codes; speak it with `decode(..., text_only=True)`."""
    sampling, generator = sampling or JointSampling(), torch.Generator().manual_seed(seed)
    tables = sampler_tables(model.tokenizer, model.config.llm.vocab_size)
    prompt = read_text(model, [word.text for word in tokens.words]).token_ids.tolist()
    machine, cache, new, starts = Machine(0, sampling, tables), DynamicCache(config=model.llm.config), [], []
    with model.language_model.disable_adapter():
        while not machine.done:
            ids = new[-1:] or [model.config.sos_id, *prompt]
            logits = model.llm(torch.tensor([ids]).to(model.device), None, None, cache, use_cache=True).logits[0, -1]
            bans = tables.banned if new else first_bans(tables, tables.banned)
            token = sample_text(logits.cpu(), prompt + new, sampling, bans, generator)
            keep, word_start, _ = machine.step(token)
            if keep:
                new, starts = [*new, token], [*starts, word_start]
    word_ids = torch.tensor(starts, dtype=torch.long).cumsum(0) - 1
    codes = torch.full((machine.words, model.config.rvq.n_quantizers), IGNORE)
    made = Generation(torch.tensor(new, dtype=torch.long), word_ids, codes, machine.stopped, [])
    return _tokens(model, made, tokens.speaker_embedding, tokens.seconds / len(tokens.words))


def whole_sentences(words: list[str]) -> list[str]:
    """What to keep of a text that was stopped at its length limit: all up to the last end of a sentence; without one
    all but the last word, which may be the beginning of a word."""
    ends = [i + 1 for i, word in enumerate(words) if word.rstrip("\"')").endswith((".", "?", "!"))]
    return words[: ends[-1] if ends else max(1, len(words) - 1)]


def say(
    model: "Taslm",
    text: str,
    speaker_embedding: torch.Tensor,
    sampling: JointSampling | None = None,
    seed: int = 0,
    before: TasteTokens | None = None,
) -> TasteTokens:
    """Codes for a written text: the model is given the words and says how they sound. Another seed, another way, if
    codes are sampled (taste_top_p above 0, token heads).

    before: words that were said before the text, with their codes; the model goes on in their manner, as far as it has
    learnt to. They are not in the result.
    """
    words = split_words(text)
    script = read_text(model, words).token_ids.tolist()
    prompt = Prompt() if before is None else _prompt(model, before)
    made = _generate(model, prompt, sampling or JointSampling(taste_top_p=0.9), seed, script)
    if len(made.codes) != len(words):
        raise TasteError("the language model reads other words than there are; write the text in plain words.")
    rate = SECONDS_PER_WORD if before is None else before.seconds / len(before.words)
    return _tokens(model, made, speaker_embedding, rate, words)


def _prompt(model: "Taslm", tokens: TasteTokens) -> Prompt:
    text = read_text(model, [word.text for word in tokens.words])
    return Prompt(text.token_ids, text.word_ids, tokens.codes)


def _generate(model, prompt: Prompt, sampling: JointSampling, seed: int, script=None) -> Generation:
    tables = sampler_tables(model.tokenizer, model.config.llm.vocab_size)
    return generate(model, [prompt], tables, sampling, [torch.Generator().manual_seed(seed)], script)[0]


def _tokens(
    model: "Taslm", made: Generation, speaker: torch.Tensor, rate: float, words: list[str] | None = None
) -> TasteTokens:
    """A generation, its words placed in time at `rate` seconds each; words: how they are written, if that is known."""
    if words is None:
        words = made.words(model.tokenizer)
        words = whole_sentences(words) if made.stopped in ("words", "tokens") else words
    codes = made.codes[: len(words)]
    if (codes < 0).any():
        embeddings = torch.zeros(len(words), model.config.rvq.d_model)
    else:
        embeddings = model.quantizer.decode(codes.to(model.device)).detach().cpu()  # (W, D)
    placed = [Word(word, i * rate, (i + 1) * rate) for i, word in enumerate(words)]
    n_tokens = int((made.word_ids < len(words)).sum())
    return TasteTokens(" ".join(words), placed, codes, embeddings, n_tokens, rate * len(words), speaker)


def joined(first: TasteTokens, second: TasteTokens) -> TasteTokens:
    """One utterance after another, in the voice of the first."""
    later = [Word(word.text, first.seconds + word.start, first.seconds + word.end) for word in second.words]
    return replace(
        first,
        text=f"{first.text} {second.text}",
        words=first.words + later,
        codes=torch.cat([first.codes, second.codes]),
        embeddings=torch.cat([first.embeddings, second.embeddings]),
        n_text_tokens=first.n_text_tokens + second.n_text_tokens,
        seconds=first.seconds + second.seconds,
    )
