"""Which chunks utterances are cut into."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.egs.utterance_splitter import Chunk, ChunkConfig, UtteranceSplitter
from nnet3py.errors import UserError


def _split(config: ChunkConfig, num_frames: int, name: str = "u", seed: int = 0) -> list[Chunk]:
    splitter = UtteranceSplitter(config, seed)
    return splitter.split(num_frames, splitter.generator(name))


def _uses(chunks: list[Chunk], num_frames: int) -> np.ndarray:
    uses = np.zeros(num_frames, int)
    for chunk in chunks:
        uses[chunk.first_frame : chunk.first_frame + chunk.num_frames] += 1
    return uses


@pytest.mark.parametrize("num_frames", [*range(8, 60), 997, 1000, 1003])
def test_chunks_lie_within_the_utterance_and_miss_or_repeat_less_than_one(num_frames: int) -> None:
    chunks = _split(ChunkConfig((8,)), num_frames)
    assert all(chunk.num_frames == 8 for chunk in chunks)
    assert chunks[0].first_frame >= 0
    assert chunks[-1].first_frame + 8 <= num_frames
    uses = _uses(chunks, num_frames)
    assert abs(8 * len(chunks) - num_frames) < 8
    assert uses.max() <= 2


def test_a_name_that_is_not_utf8_has_random_numbers_of_its_own() -> None:
    latin = b"caf\xe9".decode("utf-8", "surrogateescape")
    splitter = UtteranceSplitter(ChunkConfig((10, 4)))
    drawn = [splitter.generator(name).random() for name in (latin, latin, "caf\xe9")]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("num_frames", [8, 21, 37, 100, 333])
def test_the_weights_of_a_frame_add_up_to_one(num_frames: int) -> None:
    chunks = _split(ChunkConfig((10, 4), num_frames_overlap=3), num_frames)
    total = np.zeros(num_frames, np.float32)
    for chunk in chunks:
        total[chunk.first_frame : chunk.first_frame + chunk.num_frames] += chunk.output_weights
    uses = _uses(chunks, num_frames)
    assert np.allclose(total[uses > 0], 1)


def test_gaps_cost_twice_as_much_as_overlaps() -> None:
    # 34 frames: 32 in chunks of 8 leave a gap of 2 (cost 4), 40 overlap by 6 (cost 6), so 4 chunks; 35: 6 against 5.
    assert len(_split(ChunkConfig((8,)), 34)) == 4
    assert len(_split(ChunkConfig((8,)), 36)) == 5


def test_overlaps_come_first_where_they_cannot_be_equal() -> None:
    chunks = _split(ChunkConfig((8,)), 37)
    assert [chunk.first_frame for chunk in chunks] == [0, 7, 14, 21, 29]
    assert np.array_equal(chunks[0].output_weights, np.array([1] * 7 + [0.5], np.float32))


def test_other_lengths_are_used_at_most_twice() -> None:
    config = ChunkConfig((8, 4, 2))
    for num_frames in range(2, 200):
        lengths = [chunk.num_frames for chunk in _split(config, num_frames)]
        assert sum(length != 8 for length in lengths) <= 2
        assert lengths in (sorted(lengths), sorted(lengths, reverse=True))
        assert abs(sum(lengths) - num_frames) <= 2


def test_an_utterance_shorter_than_every_chunk_gives_none() -> None:
    assert _split(ChunkConfig((8, 4)), 3) == []
    assert _split(ChunkConfig((8,)), 0) == []


def test_the_whole_utterance_can_be_one_chunk() -> None:
    (chunk,) = _split(ChunkConfig(None, left_context=3, left_context_initial=1), 77)
    assert (chunk.first_frame, chunk.num_frames, chunk.left_context) == (0, 77, 1)
    assert (chunk.output_weights == 1).all()


def test_contexts_at_the_ends_can_differ() -> None:
    config = ChunkConfig((5,), left_context=3, right_context=4, left_context_initial=0, right_context_final=1)
    contexts = [(chunk.left_context, chunk.right_context) for chunk in _split(config, 15)]
    assert contexts == [(0, 4), (3, 4), (3, 1)]


def test_subsampling_keeps_chunks_on_whole_output_frames() -> None:
    config = ChunkConfig((9, 6), frame_subsampling_factor=3)
    for num_frames in range(6, 100):
        for chunk in _split(config, num_frames):
            assert chunk.first_frame % 3 == 0
            assert chunk.first_frame + chunk.num_frames - num_frames < 3
            assert len(chunk.output_weights) == chunk.num_frames // 3


def test_a_cut_depends_on_the_seed_and_the_name_only() -> None:
    config = ChunkConfig((8,))

    def starts(name: str, seed: int) -> list[list[int]]:
        splitter = UtteranceSplitter(config, seed)
        generator = splitter.generator(name)
        return [[chunk.first_frame for chunk in splitter.split(n, generator)] for n in range(40, 80)]

    assert starts("a", 1) == starts("a", 1)
    assert starts("a", 1) != starts("b", 1)
    assert starts("a", 1) != starts("a", 2)


def test_gaps_come_everywhere() -> None:
    """Where one frame of 17 is left out, it is before, between or behind the two chunks, each about equally often."""
    counts = {0: 0, 1: 0, 2: 0}
    for number in range(600):
        first, second = _split(ChunkConfig((8,)), 17, f"u{number}")
        counts[1 if second.first_frame - first.first_frame == 9 else 0 if first.first_frame else 2] += 1
    assert min(counts.values()) > 150


def test_lengths_that_are_rounded_up_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert ChunkConfig.parse_num_frames("8,4", 3) == (9, 6)
    assert (
        "Rounding up --num-frames=8,4 to multiples of --frame-subsampling-factor=3, to: 9,6" in capsys.readouterr().err
    )
    assert ChunkConfig.parse_num_frames("-1") is None


@pytest.mark.parametrize("text", ["", "0", "8,", "8,-1", "x", "8.5"])
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--num-frames"):
        ChunkConfig.parse_num_frames(text)


def test_an_overlap_of_a_whole_chunk_is_refused() -> None:
    with pytest.raises(UserError, match="--num-frames-overlap=8"):
        ChunkConfig((8,), num_frames_overlap=8)


def test_counts_are_logged_in_kaldis_words(capsys: pytest.CaptureFixture[str]) -> None:
    splitter = UtteranceSplitter(ChunkConfig((8, 4)))
    for number, num_frames in enumerate([12, 4, 3]):
        splitter.split(num_frames, splitter.generator(str(number)))
    splitter.log_counts()
    log = capsys.readouterr().err
    assert "Split 3 utts, with total length 19 frames" in log
    assert "into 3 chunks." in log
    assert "4 = 50%, 8 = 50%" in log
