"""Continuation: the state machine, the cache, batches, agreement with teacher forcing, and the ways to stop."""

import sys
from dataclasses import replace
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from taste_min import generate as generate_module
from taste_min.config import taslm_tiny
from taste_min.errors import TasteError
from taste_min.generate import Machine, Prompt, generate
from taste_min.joint_sampler import JointSampling, SamplerTables, first_bans
from taste_min.quantizer import ResidualVQ
from taste_min.taslm import Taslm
from taste_min.taslm_layout import collate

V = 120
IDS = torch.arange(V)
TABLES = SamplerTables(word_start=IDS % 3 == 0, sentence_end=IDS % 10 == 0, banned=IDS >= 100)
GREEDY = JointSampling(extra_words=2, max_tokens=9, top_p=0.0)
SAMPLED = JointSampling(extra_words=3, max_tokens=9, top_p=0.95, taste_top_p=0.9)


@cache
def make(head: str = "embedding", delay: int = 1, delay_level: str = "word", vocab_size: int = V) -> Taslm:
    """A tiny model whose text and codes depend strongly on what it reads."""
    torch.manual_seed(0)
    tiny = taslm_tiny()
    llm = replace(tiny.llm, vocab_size=vocab_size)
    config = replace(tiny, llm=llm, sos_id=vocab_size - 1, head=head, delay=delay, delay_level=delay_level)
    quantizer = ResidualVQ(config.rvq).train()
    quantizer(torch.randn(4, 30, config.rvq.d_model))
    model = Taslm(config, quantizer).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "pad_" in name or "embed_tokens" in name or "head" in name:
                parameter.normal_(std=0.3)
        model.fuse.weights.zero_()
    return model


def speech(words, seed: int = 0) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, 100, (len(words),), generator=generator)
    codes = torch.randint(0, 24, (max(words) + 1, 4), generator=generator)
    return Prompt(token_ids, torch.tensor(words), codes)


PROMPTS = [
    speech([0, 0, 1, 2, 2, 3], 1),
    Prompt(torch.tensor([5, 6, 7])),
    Prompt(),
    speech([0], 2),
    speech([0, 1, 1], 3),
]


def same(a, b) -> bool:
    return torch.equal(a.token_ids, b.token_ids) and torch.equal(a.codes, b.codes) and a.trace == b.trace


@pytest.mark.parametrize(("head", "delay"), [("embedding", 1), ("token", 0), ("token", 2), ("token_soft", 3)])
def test_the_cache_and_the_neighbours_in_a_batch_change_nothing(head, delay):
    model = make(head=head, delay=delay)
    together = generate(model, PROMPTS, TABLES, SAMPLED)
    recomputed = generate(model, PROMPTS, TABLES, SAMPLED, use_cache=False)
    alone = [generate(model, [prompt], TABLES, SAMPLED)[0] for prompt in PROMPTS]
    for a, b, c in zip(together, recomputed, alone, strict=True):
        assert same(a, b) and same(a, c)
    assert len({tuple(one.token_ids.tolist()) for one in together}) > 2  # the prompts matter


@pytest.mark.parametrize("head", ["embedding", "token", "token_soft"])
@pytest.mark.parametrize("delay", [0, 1, 2, 3])
def test_generated_codes_are_what_teacher_forcing_predicts(head, delay):
    model = make(head=head, delay=delay)
    for prompt in (PROMPTS[0], Prompt(), PROMPTS[3], speech(list(range(40)))):  # the last longer than the model is wide
        result = generate(model, [prompt], TABLES, GREEDY)[0]
        assert _forced(model, prompt, result) == (True, True)


def test_the_original_feeds_sampled_text_at_the_end_which_training_never_saw():
    model, wrong = make(head="token", delay=2), 0
    for seed in range(8):
        prompt = speech([0, 0, 1], seed)
        original = generate(model, [prompt], TABLES, replace(GREEDY, pad_text_at_end=False))[0]
        same_codes, same_text = _forced(model, prompt, original)
        assert same_text
        wrong += not same_codes
    assert wrong > 0


def _forced(model, prompt, result) -> tuple[bool, bool]:
    """Whether one teacher-forced pass over prompt + continuation gives the same codes and the same text."""
    token_ids, word_ids, codes = result.token_ids, result.word_ids, result.codes
    n, w = 0, 0
    if prompt.codes is not None:
        n, w = len(prompt.token_ids), len(prompt.codes)
        token_ids = torch.cat([prompt.token_ids, token_ids])
        word_ids = torch.cat([prompt.word_ids, word_ids + w])
        codes = torch.cat([prompt.codes, codes])
    batch = collate([model.layout(token_ids, word_ids, codes)])
    output = model(batch)
    labelled = batch.taste_labels[0, :, 0] >= 0
    scores = output.text_logits[0, n : len(token_ids)].masked_fill(TABLES.banned, -1e5)
    scores[0].masked_fill_(first_bans(TABLES, TABLES.banned), -1e5)
    return torch.equal(output.taste.codes[0, labelled][w:], result.codes), torch.equal(
        scores.argmax(-1), result.token_ids
    )


def run(machine: Machine, tokens) -> list[tuple[bool, bool, int]]:
    steps = []
    for index, token in enumerate(tokens):
        if not machine.done:
            steps.append(machine.step(token, last=index == len(tokens) - 1))
    while machine.stopped and not machine.done:
        steps.append(machine.step(-1))
    return steps


@pytest.mark.parametrize("delay", [0, 1, 2, 3])
def test_every_word_has_one_row_of_codes_whatever_the_text_does(delay):
    generator = torch.Generator().manual_seed(delay)
    reasons = set()
    for _ in range(300):
        script = torch.randint(0, 100, (int(torch.randint(1, 14, (1,), generator=generator)),), generator=generator)
        machine = Machine(delay, JointSampling(extra_words=2, max_factor=3, max_tokens=9, stop_id=9), TABLES)
        steps = run(machine, script.tolist())
        n_words = sum(start for keep, start, _ in steps if keep)
        assert machine.done and machine.words == n_words
        assert [word for _, _, word in steps if word >= 0] == list(range(n_words))
        assert len(steps) <= 9 + max(delay, 1)
        reasons.add(machine.stopped)
    assert reasons == {"script", "sentence", "words", "tokens", "stop_id"}


def test_a_traced_continuation():
    machine = Machine(1, JointSampling(extra_words=3), SamplerTables(IDS % 3 == 0, IDS % 50 == 0, IDS < 0))
    steps = run(machine, [7, 8, 9, 12, 13, 15, 100, 18, 18])
    #        token kept, word starts, word whose codes are taken
    assert steps[:3] == [(True, True, -1), (True, False, -1), (True, True, 0)]
    assert steps[3:6] == [(True, True, 1), (True, False, -1), (True, True, 2)]
    assert machine.stopped == "sentence"
    assert steps[6:] == [(True, False, -1), (False, True, 3)]  # one step more for the last word
    assert machine.done


def test_every_way_to_stop():
    def stop(tokens, delay=1, **options):
        machine = Machine(delay, JointSampling(**options), TABLES)
        steps = run(machine, tokens)
        return machine.stopped, sum(keep for keep, _, _ in steps), machine.words, machine.done

    assert stop([3] * 9, extra_words=1, max_factor=3) == ("words", 4, 4, True)
    assert stop([3, 10, 3], extra_words=1) == ("sentence", 2, 1, True)
    assert stop([1] * 9, max_tokens=5) == ("tokens", 5, 1, True)  # no token ever starts a word
    assert stop([3, 99, 3], stop_id=99) == ("stop_id", 1, 1, True)
    assert stop([99], stop_id=99) == ("stop_id", 0, 0, True)
    assert stop([3] * 9, extra_words=1, delay=0) == ("words", 6, 6, True)
    assert stop([3, 6], delay=3) == ("script", 2, 2, True)
    machine = Machine(1, JointSampling(), TABLES)
    assert machine.step(3) == (True, True, -1) and machine.stopped is None  # no script that could end


def test_no_tokenizer_can_keep_it_running():
    model = make()
    nothing = SamplerTables(IDS < 0, IDS < 0, IDS < 0)
    result = generate(model, [Prompt()], nothing, JointSampling(max_tokens=12))[0]
    assert (result.stopped, len(result.token_ids), len(result.codes)) == ("tokens", 12, 1)


def test_the_first_token_starts_a_word():
    sampling = JointSampling(top_p=1.0, temperature=9.0, max_tokens=2)
    first = [int(one.token_ids[0]) for one in generate(make(), [Prompt()] * 20, TABLES, sampling, _seeds(20))]
    assert all(TABLES.word_start[token] for token in first) and len(set(first)) > 1


def test_seeds_repeat_and_differ():
    model = make(head="token")

    def texts(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return generate(model, [PROMPTS[0]] * len(seeds), TABLES, SAMPLED, generators)

    a, b = texts(1, 2), texts(2, 1)
    assert same(a[0], b[1]) and same(a[1], b[0])
    assert not same(a[0], a[1])
    torch.manual_seed(123)  # the global generator plays no part
    assert same(texts(1)[0], a[0])
    assert same(generate(model, [PROMPTS[0]], TABLES, SAMPLED)[0], texts(0)[0])  # without generators


def test_codes_are_sampled_only_when_asked_and_only_by_token_heads():
    script = [3, 6, 9, 12, 15, 18]
    for head, differs in (("token", True), ("token_soft", True), ("embedding", False)):
        model = make(head=head)
        first, second = (
            generate(model, [PROMPTS[0]], TABLES, replace(GREEDY, taste_top_p=p), script=script)[0].codes
            for p in (0.0, 1.0)
        )
        assert torch.equal(first, second) is not differs


def test_stop_token_is_allowed_although_it_is_special():
    model = make()
    result = generate(model, [Prompt()] * 10, TABLES, JointSampling(top_p=1.0, temperature=9.0), _seeds(10))
    assert all((one.token_ids < 100).all() for one in result)
    sampling = JointSampling(extra_words=30, top_p=1.0, temperature=9.0, stop_id=105)
    stopped = generate(model, [Prompt()] * 10, TABLES, sampling, _seeds(10))
    assert any(one.stopped == "stop_id" for one in stopped)
    assert all((one.token_ids < 100).all() for one in stopped)


def test_the_sampler_is_told_what_was_said(monkeypatch):
    told = []

    def sampler(scores, history, *more):
        told.append(list(history))
        return 3

    monkeypatch.setattr(sys.modules[generate.__module__], "sample_text", sampler)
    generate(make(), [Prompt(torch.tensor([5, 6]))], TABLES, JointSampling(extra_words=1, max_factor=3))
    assert told == [[5, 6, *[3] * n] for n in range(4)]


def test_a_script_may_end_before_the_codes_do():
    sampling = replace(GREEDY, pad_text_at_end=False)  # text goes on, sampled, while the last codes come
    result = generate(make(head="token", delay=2), [PROMPTS[0]], TABLES, sampling, script=[3, 6])[0]
    assert result.token_ids.tolist() == [3, 6] and len(result.codes) == 2 and result.stopped == "script"


def _seeds(n):
    return [torch.Generator().manual_seed(seed) for seed in range(n)]


def test_words_follow_the_word_indices():
    tokenizer = Tokenizer(models.BPE(vocab={"Ġhel": 0, "lo": 1, "Ġyou": 2, "?": 3, ".": 4}, merges=[]))
    tokenizer.add_special_tokens(["?"])  # part of a word all the same
    tokenizer.decoder = decoders.ByteLevel()
    tables = SamplerTables(torch.tensor([True, False, True, False, False]), IDS[:5] == 3, IDS[:5] < 0)
    model = make(vocab_size=5)
    result = generate(model, [Prompt()], tables, JointSampling(extra_words=2), script=[0, 1, 2, 3])[0]
    assert result.words(tokenizer) == ["hello", "you?"]
    assert result.word_ids.tolist() == [0, 0, 1, 1]
    assert result.codes.shape == (2, 4)


def test_speech_between_text_is_read_in_order_and_batches_change_nothing():
    model, heard = make(), speech([0, 0, 1, 2])
    before, after = torch.tensor([119, 5, 6]), torch.tensor([7, 8])
    prompt = replace(heard, before=before, after=after)
    embedded, pending = generate_module._embed_prompt(model, prompt)
    alone, _ = generate_module._embed_prompt(model, heard)
    assert torch.equal(embedded[:3], model.embed_text(before)) and torch.equal(embedded[-2:], model.embed_text(after))
    assert torch.equal(embedded[3:-2], alone[1:]) and (pending < 0).all()
    together = generate(model, [prompt, PROMPTS[1], heard], TABLES, GREEDY)
    assert same(together[0], generate(model, [prompt], TABLES, GREEDY)[0])
    assert same(together[0], generate(model, [prompt], TABLES, GREEDY, use_cache=False)[0])
    with pytest.raises(TasteError, match="both must be given"):
        replace(heard, before=before)
    with pytest.raises(TasteError, match="goes with speech"):
        Prompt(before=before, after=after)


def test_training_mode_is_restored_and_wrong_prompts_are_refused():
    model = make().train()
    continued = generate(model, [PROMPTS[0]], TABLES, GREEDY)[0]
    assert model.training
    assert same(continued, generate(model.eval(), [PROMPTS[0]], TABLES, GREEDY)[0]) and not model.training
    with pytest.raises(TasteError, match="a prompt is empty, text"):
        Prompt(torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(TasteError, match="no tokens"):
        Prompt(torch.tensor([], dtype=torch.long))
    with pytest.raises(TasteError, match="nothing to continue"):
        generate(model, [], TABLES)
    with pytest.raises(TasteError, match="delay in words"):
        generate(make(delay_level="token"), [Prompt()], TABLES)
