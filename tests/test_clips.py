"""Clips for the notebooks: files, voices and word times belong together."""

import pytest

from taste_min.clips import human_clips, sample_clips


@pytest.mark.assets
def test_human_clips_have_one_time_per_word():
    clips = human_clips()
    assert len(clips) == 5
    for clip in clips:
        assert [word.text for word in clip.words] == clip.text.split()
        assert clip.words[-1].end <= len(clip.wav) / 16000 + 0.01
        assert all(a.end <= b.start + 1e-9 for a, b in zip(clip.words, clip.words[1:], strict=False))


def test_sample_clips_are_at_16_khz_with_their_words_inside_the_sound():
    clips = sample_clips()
    assert len({clip.name for clip in clips}) == len(clips) > 20
    assert len({clip.voice for clip in clips}) == 6
    for clip in clips:
        assert [word.text for word in clip.words] == clip.text.split()
        ends_at = clip.words[-1].end / (len(clip.wav) / 16000)
        assert 0.8 < ends_at <= 1.01  # read at 22.05 kHz instead, the last word would end before 0.75
