"""Segments of recordings, and Kaldi's way from recordings to compressed features with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.tables.compressed_matrix import CompressedMatrix
from nnet3py.tables.holders import GENERAL_MATRIX, MATRIX, WAVE
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.wave import Wave

RATE = 8000
ROOT = Path(__file__).resolve().parents[2]


def recording(seconds: float, channels: int = 1) -> Wave:
    rng = np.random.default_rng(channels)
    return Wave(RATE, rng.integers(-3000, 3000, (channels, round(seconds * RATE))).astype(np.float32))


@pytest.fixture(autouse=True)
def _recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.scp").write_text("r1 r1.wav\nr2 r2.wav\nstereo stereo.wav\n")
    with TableWriter("scp:out.scp", WAVE) as writer:
        writer.write("r1", recording(2))
        writer.write("r2", recording(1))
        writer.write("stereo", recording(1, 2))
    Path("wav.scp").write_text("r1 cat r1.wav |\nr2 r2.wav\n")


def run(command: str, status: int = 0) -> str:
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def extracted(segments: str, options: str = "", recordings: str = "scp:wav.scp") -> dict[str, np.ndarray]:
    Path("segments").write_text(segments)
    Path("messages").write_text(run(f"extract-segments {options} {recordings} segments ark:a.ark"))
    return {key: wave.samples for key, wave in SequentialReader("ark:a.ark", WAVE)}


def test_segments_are_cut_at_the_nearest_sample() -> None:
    found = extracted("a r1 0.10004 0.5\nb r1 5e-1 1.00007\n c\tr2  .5   -1\r\nd r2 0 1\n")
    whole = {key: wave.samples for key, wave in SequentialReader("scp:wav.scp", WAVE)}
    np.testing.assert_array_equal(found["a"], whole["r1"][:, 800:4000])
    np.testing.assert_array_equal(found["b"], whole["r1"][:, 4000:8001])
    np.testing.assert_array_equal(found["c"], whole["r2"][:, 4000:])
    np.testing.assert_array_equal(found["d"], whole["r2"])
    assert "Successfully processed 4 lines out of 4 in the segments file." in Path("messages").read_text()


def test_what_a_line_is_wrong_in_is_said_and_passed_over() -> None:
    lines = {
        "u1 r1 0.1": "line 1: invalid segment (expected 4 or 5 fields, found 3): u1 r1 0.1",
        "u2 r1 zero 1": "bad start, expected seconds, found 'zero'",
        "u3 r1 0 1_0": "bad end, expected seconds, found '1_0'",
        "u4 r1 nan 1": "bad start",
        "u5 r1 0.5 0.4": "empty or invalid segment",
        "u6 r1 -1 1": "empty or invalid segment",
        "u7 r1 0 1 left": "bad channel, expected 0 or more, found 'left'",
        "u8 r1 0 1 1": "its channel 1 is not one of the recording's 1",
        "u9 r3 0 1": "Could not find recording r3, skipping segment u9",
        "u10 r1 2.1 2.2": "its start 2.1 is out of the recording's range, 0 to 2 seconds",
        "u11 r1 1 2.6": "its end 2.6 is too far out of the recording's range",
        "u12 r1 1 1.05": "it is too short, 0.05 seconds",
        "": "expected 4 or 5 fields, found 0",
        "good r1 1 2.5": "",
    }
    assert list(extracted("\n".join(lines))) == ["good"]
    messages = Path("messages").read_text()
    assert [text for text in lines.values() if text not in messages] == []
    assert messages.count("WARNING") == len(lines) - 1
    assert "Successfully processed 1 lines out of 14" in messages


def test_the_limits_can_be_moved() -> None:
    segments = "late r2 0.5 1.9\nshort r2 0.5 0.51\nempty r2 1 -1\n"
    found = extracted(segments, "--max-overshoot=1 --min-segment-length=0")
    assert {key: samples.shape[1] for key, samples in found.items()} == {"late": 4000, "short": 80}
    assert "segment empty: it is too short" in Path("messages").read_text()


def test_a_fifth_field_chooses_the_channel() -> None:
    found = extracted("left stereo 0 0.5 0\nright stereo 0 0.5 1\n", recordings="scp:out.scp")
    whole = dict(SequentialReader("scp:out.scp", WAVE))["stereo"].samples
    np.testing.assert_array_equal(np.concatenate([found["left"], found["right"]]), whole[:, :4000])
    Path("segments").write_text("u stereo 0 0.5\n")
    messages = run("extract-segments scp:out.scp segments ark:b.ark", 1)
    assert "stereo has 2 channels: say in segments which one the segment u is of, with a fifth field" in messages
    assert not Path("b.ark").exists()


def test_nothing_to_write_is_an_error() -> None:
    Path("segments").write_text("u r9 0 1\n")
    assert "None of the 1 lines of segments" in run("extract-segments scp:wav.scp segments ark:a.ark", 1)
    assert not Path("a.ark").exists()


def test_segments_come_from_pipes_and_names_may_hold_any_byte() -> None:
    name = b"\xe4\xb8\xad\xc2\xa0\xe6\x96\x87-\xff"
    Path("segments").write_bytes(name + b" r1 0 1\n")
    run("gzip segments; extract-segments scp:wav.scp 'gunzip -c segments.gz |' ark,scp:a.ark,a.scp")
    run("gunzip -c segments.gz | extract-segments scp:wav.scp - ark:b.ark")
    assert Path("a.ark").read_bytes() == Path("b.ark").read_bytes()
    assert Path("a.scp").read_bytes().startswith(name + b" a.ark:")
    Path("marked").write_bytes(b"\xef\xbb\xbfu r1 0 1\n")
    assert "marked: expected a file of segments, found text that begins with a byte order mark" in run(
        "extract-segments scp:wav.scp marked ark:a.ark", 1
    )


def test_a_recording_is_read_once_for_all_its_segments() -> None:
    Path("wav.scp").write_text("r1 echo r1 >> reads; cat r1.wav |\nr2 echo r2 >> reads; cat r2.wav |\n")
    lines = [
        f"{key}-{number} {key} {number / 1000} {number / 1000 + 0.5}" for key in ("r1", "r2") for number in range(400)
    ]
    assert len(extracted("\n".join(lines) + "\n")) == 800
    assert Path("reads").read_text() == "r1\nr2\n"


def test_a_recording_that_cannot_be_read_is_tried_once_where_it_may_be_absent() -> None:
    Path("wav.scp").write_text("r1 echo r1 >> reads; head -c 30 r1.wav |\nr2 r2.wav\n")
    segments = "".join(f"u{number} r1 0 1\n" for number in range(20)) + "v r2 0 1\n"
    assert list(extracted(segments, recordings="scp,p:wav.scp")) == ["v"]
    assert Path("reads").read_text() == "r1\n"
    messages = Path("messages").read_text()
    assert messages.count("Cannot read the value of key 'r1'") == 1
    assert messages.count("Could not find recording r1") == 20
    run("extract-segments scp:wav.scp segments ark:b.ark", 1)


def test_recordings_come_from_an_archive_too() -> None:
    run("wav-copy scp:wav.scp ark:wav.ark")
    segments = "a r2 0 0.5\nb r1 0 0.5\nc r2 0.5 1\n"
    by_script, by_archive = extracted(segments), extracted(segments, recordings="ark:wav.ark")
    assert list(by_script) == list(by_archive) == ["a", "b", "c"]
    for key, samples in by_script.items():
        np.testing.assert_array_equal(samples, by_archive[key])


# ------------------------------------------------------------------------------------------------------ copies, lengths


def test_recordings_are_copied_between_scripts_archives_and_files() -> None:
    messages = run("wav-copy scp:out.scp ark,scp:wav.ark,wav.ark.scp")
    assert "Copied 3 wave files" in messages
    run("wav-copy \"$(sed -n 's/^r2 //p' wav.ark.scp)\" one.wav")
    assert Path("one.wav").read_bytes() == Path("r2.wav").read_bytes()
    run("cat r2.wav | wav-copy - - | cmp - r2.wav")
    Path("to.scp").write_text("r1 | cat > piped.wav\nr2 two.wav\nstereo three.wav\n")
    run("wav-copy ark:wav.ark scp:to.scp")
    assert Path("piped.wav").read_bytes() == Path("r1.wav").read_bytes()
    assert Path("three.wav").read_bytes() == Path("stereo.wav").read_bytes()
    assert "Expected two tables or two files" in run("wav-copy scp:out.scp x.wav", 1)
    assert "no text form" in run("wav-copy scp:out.scp ark,t:x.ark", 1)
    Path("none.scp").write_text("")
    assert "is empty" in run("wav-copy scp:none.scp ark:x.ark", 1)


@pytest.mark.parametrize("option", ["", "--read-entire-file=true"])
def test_lengths_are_right_whatever_the_header_says(option: str) -> None:
    data = bytearray(Path("r1.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    Path("piped.wav").write_bytes(data)
    Path("cut.wav").write_bytes(Path("r1.wav").read_bytes()[: 44 + RATE])
    Path("all.scp").write_text("a r1.wav\nb cat piped.wav |\nc cat cut.wav |\nd stereo.wav\ne piped.wav\n")
    messages = run(f"wav-to-duration {option} scp:all.scp ark,t:reco2dur")
    assert Path("reco2dur").read_text() == "a 2 \nb 2 \nc 0.5 \nd 1 \ne 2 \n"
    assert "Printed duration for 5 audio files." in messages
    assert "Mean duration was 1.5, min and max durations were 0.5, 2" in messages
    run(f"wav-copy scp:out.scp ark:- | wav-to-duration {option} ark:- ark,t:from-archive")
    assert Path("from-archive").read_text() == "r1 2 \nr2 1 \nstereo 1 \n"


# ------------------------------------------------------------------------------------------------------ make_mfcc's way


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
def test_the_pipeline_of_kaldis_recipes_writes_compressed_features_lengths_and_seconds(kind: str) -> None:
    pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed; features need it")
    Path("conf").write_text("--sample-frequency=8000\n--dither=0\n")
    Path("segments").write_text("u1 r1 0 0.5\nu2 r1 0.5 1.25\nu3 r2 0 0.101\nu4 r9 0 1\n")
    run(
        "extract-segments scp,p:wav.scp segments ark:- | "
        f"compute-{kind}-feats --write-utt2dur=ark,t:utt2dur --verbose=2 --config=conf ark:- ark:- | "
        "copy-feats --compress=true --write-num-frames=ark,t:utt2num_frames ark:- ark,scp:feats.ark,feats.scp"
    )
    assert Path("utt2dur").read_text() == "u1 0.5 \nu2 0.75 \nu3 0.101 \n"
    assert Path("utt2num_frames").read_text() == "u1 48 \nu2 73 \nu3 8 \n"
    packed = dict(SequentialReader("scp:feats.scp", GENERAL_MATRIX))
    assert all(isinstance(matrix, CompressedMatrix) for matrix in packed.values())
    # The first utterance is the first half second of its recording: so are its features.
    run(f"compute-{kind}-feats --config=conf scp:wav.scp ark:whole.ark")
    whole = dict(SequentialReader("ark:whole.ark", MATRIX))
    found = dict(SequentialReader("scp:feats.scp", MATRIX))
    np.testing.assert_allclose(found["u1"], whole["r1"][:48], atol=0.6)
    np.testing.assert_allclose(found["u2"], whole["r1"][50:123], atol=0.6)


KALDI_RECIPE = ROOT.parent / "kaldi" / "egs" / "wsj" / "s5"


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
@pytest.mark.parametrize("segmented", [False, True], ids=["recordings", "segments"])
def test_kaldis_own_script_makes_features_with_these_programs(kind: str, segmented: bool) -> None:
    pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed; features need it")
    if not KALDI_RECIPE.is_dir() or shutil.which("perl") is None:
        pytest.skip("no ../kaldi/egs/wsj/s5 beside this checkout, or no perl: Kaldi's scripts are not distributed")
    for name in ("steps", "utils"):
        shutil.copytree(KALDI_RECIPE / name, name, symlinks=True)
    Path("path.sh").write_text("export PATH=$PWD/utils:$PATH\nexport LC_ALL=C\n")
    Path("conf").mkdir()
    Path(f"conf/{kind}.conf").write_text("--sample-frequency=8000\n")
    data = Path("data")
    data.mkdir()
    shutil.copy("wav.scp", data)
    names = ["r1", "r2"]
    if segmented:
        (data / "segments").write_text("r1-a r1 0.0 0.5\nr1-b r1 0.5 1.25\nr2-a r2 0.1 0.9\n")
        names = ["r1-a", "r1-b", "r2-a"]
    for target in ("utt2spk", "spk2utt"):
        (data / target).write_text("".join(f"{name} {name}\n" for name in names))
    run(f"steps/make_{kind}.sh --nj 2 --cmd utils/run.pl --write-utt2dur true data log feats")
    features = dict(SequentialReader("scp:data/feats.scp", MATRIX))
    assert list(features) == names
    lengths = [line.split() for line in (data / "utt2num_frames").read_text().splitlines()]
    assert lengths == [[name, str(len(matrix))] for name, matrix in features.items()]
    seconds = [line.split()[1] for line in (data / "utt2dur").read_text().splitlines()]
    assert seconds == (["0.5", "0.75", "0.8"] if segmented else ["2", "1"])
    if not segmented:
        (data / "utt2dur").unlink()
        (data / "utt2num_frames").unlink()
        (data / "feats.scp").unlink()
        run("export PATH=$PWD/utils:$PATH; utils/data/get_utt2dur.sh --nj 1 data")
        assert (data / "utt2dur").read_text().split() == ["r1", "2", "r2", "1"]
