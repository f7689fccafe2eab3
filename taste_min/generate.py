"""Continuing speech: sampling text and TASTE codes together (paper section 3.2, inference).

A state machine walks over the text tokens. Whenever a token starts a new word, the codes of the word before it are
taken from the same output position and become the speech side of the next inputs. After the last word the machine
waits `delay` more steps for the codes that are still missing.

Axes: B prompts, T prompt tokens, n generated tokens, W generated words, V vocabulary, R quantiser layer, D width.
"""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from .errors import TasteError
from .joint_sampler import JointSampling, SamplerTables, first_bans, keep_top_p, sample_text
from .lora import merged
from .taslm import HeadOutput, Taslm
from .taslm_layout import IGNORE

DEFAULT_SAMPLING = JointSampling()


@dataclass(frozen=True)
class Prompt:
    """Speech (all three given), text (token_ids alone) or nothing. token_ids, word_ids: (T,), codes: (W, R).

    before, after: text tokens around the speech, such as an instruction or examples. As in the released system text
    enters as plain embeddings, without start token and fusion, and so the codes of the last spoken word do not enter
    when text follows.
    """

    token_ids: torch.Tensor | None = None
    word_ids: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    before: torch.Tensor | None = None
    after: torch.Tensor | None = None

    def __post_init__(self):
        given = [part is not None for part in (self.token_ids, self.word_ids, self.codes)]
        if given not in ([False] * 3, [True, False, False], [True] * 3):
            raise TasteError("a prompt is empty, text (token_ids) or speech (token_ids, word_ids and codes).")
        if given[0] and len(self.token_ids) == 0:
            raise TasteError("the prompt has no tokens; leave it out to start from nothing.")
        if (self.before is None) != (self.after is None) or (self.before is not None and not given[2]):
            raise TasteError("text before and after goes with speech, and both must be given.")


@dataclass(frozen=True)
class Step:
    """One turn of the state machine. token: the text token, or -1 while waiting. word: index of the word whose codes
    were taken at this step, -1 = none. codes: those R codes."""

    token: int
    word_start: bool
    word: int
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """The continuation alone, without its prompt. token_ids, word_ids: (n,), codes: (W, R).

    stopped: "sentence", "words", "tokens", "stop_id" or "script", what ended the text. trace: all steps.
    """

    token_ids: torch.Tensor
    word_ids: torch.Tensor
    codes: torch.Tensor
    stopped: str
    trace: list[Step]

    def words(self, tokenizer: Tokenizer) -> list[str]:
        """The W words as text, without spaces around them."""
        pieces = [self.token_ids[self.word_ids == word].tolist() for word in range(len(self.codes))]
        return [tokenizer.decode(ids, skip_special_tokens=False).strip() for ids in pieces]


class Machine:
    """Counts words and tokens of one continuation, and says at each step what to keep and when to stop."""

    def __init__(self, delay: int, sampling: JointSampling, tables: SamplerTables):
        self.delay, self.sampling, self.tables = delay, sampling, tables
        self.starts = self.words = self.tokens = 0  # starts also counts the steps after the text
        self.stopped: str | None = None
        self.countdown = delay
        self.done = False

    def step(self, token: int, last: bool = False) -> tuple[bool, bool, int]:
        """token: the text token, unused while waiting; last: it is the end of a script.

        Returns (keep the token, a word starts, index of the word whose codes to take or -1).
        """
        sampling, waiting = self.sampling, self.stopped is not None
        if not waiting and token == sampling.stop_id:
            self.stopped, waiting = "stop_id", True
        if waiting:
            self.countdown -= 1
        word_start = waiting or self.starts == 0 or bool(self.tables.word_start[token])
        if not waiting:
            if self.words >= sampling.extra_words and self.tables.sentence_end[token]:
                self.stopped = "sentence"
            elif self.words >= sampling.max_factor * sampling.extra_words:
                self.stopped = "words"
            elif self.tokens + 1 >= sampling.max_tokens:  # dev: token-cap
                self.stopped = "tokens"
            elif last:
                self.stopped = "script"
            self.words += word_start
            self.tokens += 1
        self.starts += word_start
        self.done = self.stopped is not None and self.countdown <= 0
        word = self.starts - 1 - self.delay
        return not waiting, word_start, word if word_start and 0 <= word < self.words else -1


@torch.no_grad()
def generate(
    model: Taslm,
    prompts: list[Prompt],
    tables: SamplerTables,
    sampling: JointSampling = DEFAULT_SAMPLING,
    generators: list[torch.Generator] | None = None,
    script: list[int] | None = None,
    use_cache: bool = True,
) -> list[Generation]:
    """Continue every prompt. A prompt's result does not depend on the others beside it.

    generators: one per prompt, on the CPU; None seeds each with 0. script: text tokens to speak in place of sampled
    ones, for all prompts; the text ends with the last of them. use_cache=False recomputes everything at each step.
    Raises TasteError without prompts, and for token-level delays, which the state machine does not know.
    """
    config = model.config
    if config.delay_level != "word":
        raise TasteError("generation needs a delay in words; set delay_level to 'word'.")
    if not prompts:
        raise TasteError("there is nothing to continue; an empty Prompt() starts from nothing.")
    if generators is None:
        generators = [torch.Generator().manual_seed(0) for _ in prompts]
    was_training = model.training
    model.eval()
    banned = tables.banned.clone()
    if sampling.stop_id is not None:
        banned[sampling.stop_id] = False
    banned_first = first_bans(tables, banned)

    embedded, pending = zip(*(_embed_prompt(model, prompt) for prompt in prompts), strict=True)
    inputs = pad_sequence(list(embedded), batch_first=True, padding_side="left")  # (B, N, D)
    lengths = torch.tensor([len(one) for one in embedded])
    mask = (torch.arange(inputs.shape[1]) >= inputs.shape[1] - lengths[:, None]).to(model.device)  # (B, N)
    machines = [Machine(config.delay, sampling, tables) for _ in prompts]
    histories = [[] if prompt.token_ids is None else prompt.token_ids.tolist() for prompt in prompts]
    traces: list[list[Step]] = [[] for _ in prompts]
    next_tokens = torch.full((len(prompts), 1), IGNORE)
    next_codes = torch.full((len(prompts), 1, config.rvq.n_quantizers), IGNORE)  # what enters beside the next token
    cache = DynamicCache(config=model.llm.config) if use_cache else None

    with merged(model.language_model):
        while True:
            n_new = 1 if use_cache and cache.get_seq_length() else inputs.shape[1]
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -n_new:]
            newest = inputs[:, -n_new:].to(model.llm.dtype)
            # in their order, because transformers 5.24 gave the cache another name
            output = model.llm.model(None, mask, positions, cache, newest, use_cache=use_cache)
            hidden = output.last_hidden_state[:, -1]  # (B, D)
            scores, taste = model.llm.lm_head(hidden).cpu(), model.predict_taste(hidden)
            for b, machine in enumerate(machines):
                if machine.done:
                    continue
                token, turn = IGNORE, len(traces[b])
                if machine.stopped is None or not sampling.pad_text_at_end:
                    if script is not None and turn < len(script):
                        token = script[turn]
                    else:
                        bans = banned if traces[b] else banned_first
                        token = sample_text(scores[b], histories[b], sampling, bans, generators[b])
                keep, word_start, word = machine.step(token, last=script is not None and turn >= len(script) - 1)
                codes = _choose_codes(taste, b, sampling.taste_top_p, generators[b]) if word >= 0 else None
                if word_start:  # the speech side changes: first the end of the prompt, then what was just taken
                    waiting = pending[b][machine.starts - 1 : machine.starts]
                    next_codes[b, 0] = waiting[0] if len(waiting) else IGNORE if codes is None else codes
                next_tokens[b] = token if keep or not sampling.pad_text_at_end else IGNORE
                if keep:
                    histories[b].append(token)
                traces[b].append(
                    Step(token if keep else IGNORE, word_start, word, () if codes is None else tuple(codes.tolist()))
                )
            if all(machine.done for machine in machines):
                break
            following = model.embed(next_tokens.to(model.device), next_codes.to(model.device))
            inputs = torch.cat([inputs, following], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
    model.train(was_training)
    return [_result(trace, machine, next_codes.shape[2]) for trace, machine in zip(traces, machines, strict=True)]


def _embed_prompt(model: Taslm, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
    """Input embeddings (N, D), and the speech rows (delay, R) of the prompt that have not entered yet."""
    pending = torch.full((model.config.delay, model.config.rvq.n_quantizers), IGNORE)
    if prompt.token_ids is None:
        return model.embed_text(torch.tensor([model.config.sos_id], device=model.device)), pending
    if prompt.codes is None:
        return model.embed_text(prompt.token_ids.to(model.device)), pending
    laid = model.layout(prompt.token_ids.cpu(), prompt.word_ids.cpu(), prompt.codes.cpu())
    n = 1 + len(prompt.token_ids)
    speech = model.embed_sequence(laid.token_ids[:n].to(model.device), laid.codes[:n].to(model.device))
    if prompt.before is None:
        return speech, laid.codes[n:]
    before, after = (model.embed_text(text.to(model.device)) for text in (prompt.before, prompt.after))
    return torch.cat([before, speech[1:], after]), pending


def _choose_codes(taste: HeadOutput, b: int, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """Codes (R,) of prompt b; with top_p above 0 and logits to sample from, one draw per codebook."""
    if top_p == 0 or taste.logits is None:
        return taste.codes[b].cpu()
    rows = [keep_top_p(row, top_p).softmax(-1) for row in taste.logits[b].float().cpu()]
    return torch.multinomial(torch.stack(rows), 1, generator=generator)[:, 0]  # (R,)


def _result(trace: list[Step], machine: Machine, n_quantizers: int) -> Generation:
    kept = [step for step in trace if step.token != IGNORE]
    starts = torch.tensor([step.word_start for step in kept], dtype=torch.long)
    codes = torch.tensor([step.codes for step in trace if step.word >= 0], dtype=torch.long)
    return Generation(
        token_ids=torch.tensor([step.token for step in kept], dtype=torch.long),
        word_ids=starts.cumsum(0) - 1,
        codes=codes.reshape(-1, n_quantizers),  # (W, R)
        stopped=machine.stopped,
        trace=trace,
    )
