"""Scoring, continuing and saying with a tiny model that has over-fitted one batch."""

from dataclasses import replace

import pytest
import torch
from fake_taste import letters, tokens_of

from taste_min.errors import TasteError
from taste_min.joint_sampler import JointSampling, sampler_tables
from taste_min.taslm import Taslm
from taste_min.taslm_files import build_taslm
from taste_min.taslm_layout import collate
from taste_min.taslm_speech import continue_text, joined, position_losses, read_text, say, whole_sentences

TEXTS = ("you like some tea", "some tea you like", "like you some more")


def make(head: str = "token") -> Taslm:
    torch.manual_seed(0)
    model = build_taslm("tiny", head).eval()
    model.tokenizer = letters()
    return model


@pytest.fixture(scope="module", params=["token", "embedding"])
def learnt(request) -> Taslm:
    """A model that knows three utterances by heart."""
    model = make(request.param).train()
    batch = collate([laid(model, tokens_of(text, seed=i)) for i, text in enumerate(TEXTS)])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()
    return model.eval()


def laid(model: Taslm, tokens):
    text = read_text(model, [word.text for word in tokens.words])
    return model.layout(text.token_ids, text.word_ids, tokens.codes)


def test_matching_codes_are_expected_more_than_those_of_another_utterance(learnt):
    mine, other = tokens_of(TEXTS[0], seed=0), tokens_of(TEXTS[0], seed=9)
    good, bad = learnt.score(mine), learnt.score(other)
    assert len(good.codes) == 4 and len(good.text) == len(" " + TEXTS[0])
    assert sum(good.codes) < 0.7 * sum(bad.codes) and good.loss < bad.loss
    assert good.loss == pytest.approx(
        0.5 * sum(good.text) / len(good.text) + 0.5 * sum(good.codes) / len(good.codes), rel=1e-5
    )


def test_position_losses_are_those_of_training():
    for head in ("token", "embedding"):
        model = make(head)
        model.config = replace(model.config, latent_adds_std=False)
        batch = collate([laid(model, tokens_of(text, seed=i)) for i, text in enumerate(TEXTS)])
        losses, output = position_losses(model, batch), model(batch)
        torch.testing.assert_close(losses.text.sum() / (batch.text_labels >= 0).sum(), output.text_ce)
        labelled = batch.taste_labels[..., 0] >= 0
        assert (losses.codes[~labelled] == 0).all()
        mean = losses.codes[labelled].mean()
        if head == "token":
            torch.testing.assert_close(mean, output.taste_loss)
        else:
            target = model.quantizer.embed_codes(batch.taste_labels[labelled])
            torch.testing.assert_close(mean, (output.taste.mean[labelled] - target).square().mean())


def test_a_continuation_is_tokens_in_the_same_voice(learnt):
    prompt = tokens_of(TEXTS[0], seed=0)
    sampling = JointSampling(extra_words=2, max_tokens=20, top_p=0.9)
    made = learnt.continue_speech(prompt, sampling, seed=1)
    again = learnt.continue_speech(prompt, sampling, seed=1)
    assert made.text == again.text and torch.equal(made.codes, again.codes)
    assert len(made.words) == len(made.codes) == len(made.embeddings) == len(made.text.split()) > 0
    assert torch.equal(made.embeddings, learnt.quantizer.decode(made.codes))
    assert torch.equal(made.speaker_embedding, prompt.speaker_embedding)
    assert made.words[0].end == pytest.approx(0.25)  # at the rate of the prompt
    whole = learnt.continue_speech(prompt, sampling, seed=1, with_prompt=True)
    assert whole.text == f"{prompt.text} {made.text}" and torch.equal(whole.codes[4:], made.codes)
    assert whole.seconds == pytest.approx(prompt.seconds + made.seconds)
    assert joined(prompt, made).words[4].start == pytest.approx(prompt.seconds)


def test_say_gives_every_word_its_codes():
    model = make("token")
    voice = tokens_of("a").speaker_embedding
    made = say(model, "you like  some tea", voice)
    assert made.text == "you like some tea" and made.codes.shape == (4, 4) and int(made.codes.min()) >= 0
    assert torch.equal(made.codes, say(model, "you like some tea", voice).codes)
    assert not torch.equal(made.codes, say(model, "you like some tea", voice, seed=1).codes)
    best = JointSampling(taste_top_p=0.0)
    assert torch.equal(say(model, "you tea", voice, best, 0).codes, say(model, "you tea", voice, best, 1).codes)


def test_what_is_said_follows_the_words_before_it():
    model, text, voice = make(), "tea you like", tokens_of("a").speaker_embedding
    with torch.no_grad():
        model.fuse.weights.zero_()  # speech weighs as much as text
    before = [tokens_of("some", seconds=0.5, seed=seed) for seed in (1, 9)]
    best = JointSampling(taste_top_p=0.0)
    mine, other = (say(model, text, voice, best, before=one) for one in before)
    assert mine.text == other.text == text and mine.codes.shape == other.codes.shape == (3, 4)
    assert not torch.equal(mine.codes, other.codes)
    assert mine.words[0].end == pytest.approx(0.5)  # at the rate of what was before
    assert torch.equal(mine.codes, say(model, text, voice, best, before=before[0]).codes)


def test_a_stopped_text_ends_with_a_sentence_or_a_whole_word():
    assert whole_sentences(["I", "am.", "You", "are,", "to"]) == ["I", "am."]
    assert whole_sentences(['"Yes!"', "he", "cri"]) == ['"Yes!"']
    assert whole_sentences(["no", "end", "in", "sig"]) == ["no", "end", "in"]
    assert whole_sentences(["alone"]) == ["alone"]


def test_the_cascade_continues_the_text_without_what_was_learnt_and_has_no_codes(learnt):
    prompt, sampling = tokens_of(TEXTS[0], seed=0), JointSampling(extra_words=2, max_tokens=12, top_p=0.0)
    made = continue_text(learnt, prompt, sampling)
    assert made.text == continue_text(make(learnt.config.head), prompt, sampling).text
    assert made.codes.shape == (len(made.words), 4) and (made.codes == -1).all() and (made.embeddings == 0).all()
    assert made.embeddings.shape == (len(made.words), learnt.config.rvq.d_model)
    ids = [learnt.config.sos_id, *read_text(learnt, prompt.text.split()).token_ids.tolist()]
    banned = sampler_tables(learnt.tokenizer, learnt.config.llm.vocab_size).banned
    with learnt.language_model.disable_adapter(), torch.no_grad():  # once more without a cache
        for _ in range(12):
            scores = learnt.llm(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(scores.masked_fill(banned, -1e5).argmax()))
    assert made.text == letters().decode(ids[-12:]).strip()[: len(made.text)]


def test_what_cannot_be_scored_is_refused():
    model, tokens = make(), tokens_of(TEXTS[0])
    with pytest.raises(TasteError, match="no codes"):
        model.score(replace(tokens, codes=torch.full((4, 4), -1)))
    model.tokenizer = None
    with pytest.raises(TasteError, match="no tokenizer"):
        model.score(tokens)
    with pytest.raises(TasteError, match="no words"):
        say(make(), " ", tokens.speaker_embedding)
