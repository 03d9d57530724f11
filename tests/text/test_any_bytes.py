"""Ids, words and text of any bytes through programs, in whatever locale these run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from odd_names import ODD, as_windows_leaves_it, odd_word

from nnet3py import log
from nnet3py.alignment.language import prepare_language
from nnet3py.alignment.lexicon import read_lexicon
from nnet3py.driver.data_used import said_in_logs
from nnet3py.driver.engine import require_plain_words
from nnet3py.driver.experiment import Experiment
from nnet3py.errors import UserError
from nnet3py.jobs import log_file, queue_conf
from nnet3py.jobs.hosts import read_hosts
from nnet3py.tables.holders import (
    FLOAT,
    INT,
    INT_VECTOR,
    MATRIX,
    POSTERIOR,
    TOKEN,
    TOKEN_VECTOR,
    VECTOR,
)
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter
from nnet3py.text.lines import decode, encode

ROOT = Path(__file__).resolve().parents[2]
KEYS = [b"u%02d." % number + odd for number, odd in enumerate(ODD.values())]
ASCII = "C, and ASCII on the standard streams"
LOCALES = {
    "the tests'": {},
    "C": {"LC_ALL": "C"},
    "POSIX, without Python's UTF-8 mode": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ASCII: {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
}


def run(folder: Path, *words: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, cwd=folder, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("locale", LOCALES)
def test_keys_go_through_scripts_archives_and_hdf5_and_out_at_the_other_end(locale: str, tmp_path: Path) -> None:
    name = b"M\xf6rz\xc3\xa4\xe3\x80\x80"  # of the folder
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    lines = b"".join(b"%s %d 2 \n" % (key, number) for number, key in enumerate(KEYS))
    (folder / "ali.txt").write_bytes(lines)
    for source, target in (
        (b"ark:ali.txt", b"ark,scp:/ali.ark,/ali.scp"),
        (b"scp:ali.scp", b"hdf5:/ali.h5"),
        (b"hdf5:/ali.h5", b"ark,t:-"),
    ):
        paths = [part.replace(b"/", name + b"/") for part in (source.replace(b":ali", b":/ali"), target)]
        done = run(tmp_path, "copy-int-vector", *paths, **LOCALES[locale])
        assert done.returncode == 0, done.stderr
        assert paths[0] in done.stderr  # the command line is echoed as it is
    assert done.stdout == lines


@pytest.mark.parametrize("locale", LOCALES)
def test_messages_and_jobs_have_what_a_locale_cannot_write(locale: str, tmp_path: Path) -> None:
    (tmp_path / "a.scp").write_bytes(b"caf\xe9\xe3\x80\x80 na\xefve.ark\n")
    done = run(tmp_path, "copy-feats", "--print-args=false", "scp:a.scp", "ark:-", **LOCALES[locale])
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert b"caf\\udce9\\u3000" in line
    assert b"Cannot open na\\xefve.ark to read: No such file" in line
    done = run(tmp_path, "run-local", "job.log", "echo", b"\xe9\xe3\x80\x80\xc2\xa0", **LOCALES[locale])
    assert done.returncode == 0, done.stderr
    assert b"\n\xe9\xe3\x80\x80\xc2\xa0\n" in (tmp_path / "job.log").read_bytes()
    assert log_file.last_lines(str(tmp_path / "job.log")) == ["\udce9\u3000\xa0"]


def test_every_program_shows_its_help_where_the_terminal_is_ascii(tmp_path: Path) -> None:
    for program in ("nnet-train-shard", "run-ssh", "nnet-get-egs"):
        done = run(tmp_path, program, "--help", **LOCALES[ASCII])
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(b"Usage: ")


@pytest.mark.parametrize(
    ("holder", "value", "text"),
    [
        (INT_VECTOR, np.array([1, 2], np.int32), b"1 2"),
        (INT_VECTOR, np.zeros(0, np.int32), b""),
        (INT, 7, b"7"),
        (FLOAT, 0.5, b"0.5"),
        (TOKEN, "s1\u3000", b"s1\xe3\x80\x80"),
        (TOKEN_VECTOR, ["a\xa0", "\udce9"], b"a\xc2\xa0 \xe9"),
        (TOKEN_VECTOR, [], b""),
        (VECTOR, np.array([1, 2], np.float32), b" [ 1 2 ]"),
        (MATRIX, np.array([[1, 2], [3, 4]], np.float32), b" [\n  1 2\n  3 4 ]"),
        (POSTERIOR, [[(1, 0.5)], [(2, 1.0)]], b"[ 1 0.5 ] [ 2 1 ]"),
    ],
)
@pytest.mark.parametrize("gap", [b" ", b"\t", b" \t  "])
def test_tables_in_text_are_the_same_with_line_ends_of_windows(holder, value, text, gap, tmp_path: Path) -> None:
    lines = b"".join(key + (gap + text if text else b"") + b"\n" for key in (b"u1", b"u2\xc2\x85"))
    read = []
    for number, data in enumerate((lines, lines.replace(b"\n", b"\r\n"), lines.replace(b"\n", b" \r\n"))):
        (tmp_path / f"{number}.txt").write_bytes(data)
        with SequentialReader(f"ark:{tmp_path}/{number}.txt", holder) as reader:
            read.append([(key, repr(content)) for key, content in reader])
    assert [key for key, _ in read[0]] == ["u1", "u2\x85"]
    assert read[0] == read[1] == read[2]
    with TableWriter(f"ark,t:{tmp_path}/value", holder) as writer:
        writer.write("u1", value)
    with SequentialReader(f"ark:{tmp_path}/value", holder) as reader:
        assert repr(next(iter(reader))[1]) == read[0][0][1]


@pytest.mark.parametrize("holder", [TOKEN, INT_VECTOR])
def test_hdf5_holds_keys_and_words_that_are_not_utf8(holder, tmp_path: Path) -> None:
    values = {decode(key): decode(key) if holder is TOKEN else np.array([1, 2], np.int32) for key in KEYS}
    with TableWriter(f"hdf5:{tmp_path}/a.h5", holder) as writer:
        for key, value in values.items():
            writer.write(key, value)
    with SequentialReader(f"hdf5:{tmp_path}/a.h5", holder) as reader:
        assert [(encode(key), repr(value)) for key, value in reader] == [
            (encode(key), repr(value)) for key, value in values.items()
        ]
    with RandomAccessReader(f"hdf5:{tmp_path}/a.h5", holder) as random:
        assert all(repr(random[key]) == repr(value) for key, value in values.items())
        assert not any(key in random for key in ("u", "u\udce9", "u/\udce9", "u\0", "\udce9/../u", "", "."))


def test_a_language_is_the_same_of_a_lexicon_that_windows_had_and_sorted_by_bytes(tmp_path: Path) -> None:
    pytest.importorskip("kaldifst")
    words = [b"\xf0\x9f\x98\x80", b"\xef\xbc\xa1", b"\xe4", b"\xe4\xbd\xa0", b"Z", b"a\xc2\xa0b", odd_word(b"a")]
    lines = [b"%s 0.5 %s X%s" % (word, word, word) for word in words]
    for name in ("lexicon", "of_windows"):
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
    as_windows_leaves_it(tmp_path / "of_windows")
    for name in ("lexicon", "of_windows"):
        prepare_language(str(tmp_path / name), str(tmp_path / f"{name}.lang"))
    for path in (tmp_path / "lexicon.lang").rglob("*.*"):
        other = tmp_path / "of_windows.lang" / path.relative_to(tmp_path / "lexicon.lang")
        assert other.read_bytes() == path.read_bytes()
    listed = [line.split()[0] for line in (tmp_path / "lexicon.lang/words.txt").read_bytes().split(b"\n")[1:-4]]
    assert listed == sorted(words)  # as LC_ALL=C sort has them
    phones = [line.split()[0] for line in (tmp_path / "lexicon.lang/phones.txt").read_bytes().split(b"\n")[2:-5]]
    assert phones[: 2 * len(words)] == sorted([*words, *(b"X" + word for word in words)])[: len(phones)]
    assert {encode(entry.word) for entry in read_lexicon(str(tmp_path / "lexicon.lang/lexicon.txt"))} == set(words)


def test_words_are_scored_by_their_bytes(tmp_path: Path) -> None:
    pytest.importorskip("kaldialign")
    (tmp_path / "data").mkdir()
    (tmp_path / "decode").mkdir()
    reference = b"".join(b"%s %s \xe4 a\xc2\xa0b\n" % (key, key) for key in KEYS)
    (tmp_path / "data/text").write_bytes(reference)
    as_windows_leaves_it(tmp_path / "data/text")
    (tmp_path / "decode/hyp_1.txt").write_bytes(reference.replace(b" \xe4 ", b" \xc3\xa4 ", 3))
    done = run(tmp_path, str(ROOT / "steps/score.py"), "data", "decode", **LOCALES[ASCII])
    assert done.returncode == 0, done.stderr
    wanted = f"[ 3 / {3 * len(KEYS)}, 0 ins, 0 del, 3 sub ]"
    assert wanted in done.stdout.decode()
    assert wanted in (tmp_path / "decode/wer_1").read_text()


def test_what_programs_say_of_an_utterance_is_found_in_their_logs(tmp_path: Path) -> None:
    keys = [*KEYS, b"u1:", b"u2,", b"u3."]
    with TableWriter(f"ark,t:{tmp_path}/feats.txt", MATRIX) as writer:
        for key in keys:
            writer.write(decode(key), np.ones((3, 2), np.float32))
    (tmp_path / "cmvn.txt").write_bytes(b"other  [ 1 1 1\n 1 1 0 ]\n")
    done = run(tmp_path, "apply-cmvn", "ark:cmvn.txt", "ark:feats.txt", "ark:/dev/null")
    (tmp_path / "ours.log").write_bytes(done.stderr)
    kaldis = [b"WARNING (x[5.5]:main():x.cc:1) No alignment for utterance %s: it is too short" % key for key in keys]
    (tmp_path / "kaldis.log").write_bytes(b"\n".join(kaldis))
    for name, reason in (("ours", "no normalisation statistics"), ("kaldis", "too short for its transcript")):
        assert said_in_logs([f"{tmp_path}/{name}.log"], map(decode, keys)) == dict.fromkeys(map(decode, keys), reason)


def test_comments_in_any_encoding_are_passed_over(tmp_path: Path) -> None:
    comment = b"# configuraci\xf3n \xe2\x80\xa8--no-option\xc2\x85--nor-this\r\n\r\n"
    (tmp_path / "a.txt").write_bytes(b"u1  [\n 1 2 ]\n")
    (tmp_path / "copy.conf").write_bytes(comment + b"\t--compress = true # \xb5\r\n")
    done = run(tmp_path, "copy-feats", "--config=copy.conf", "ark:a.txt", "ark:-")
    assert done.stdout.startswith(b"u1 \0BCM"), done.stderr
    (tmp_path / "queue.conf").write_bytes(
        comment + b"command sbatch --comment=caf\xe9\r\ndefault\tgpu=0\r\noption gpu=0\r\n"
    )
    conf = queue_conf.read(str(tmp_path / "queue.conf"))
    assert (conf.command, conf.defaults) == (["sbatch", "--comment=caf\udce9"], {"gpu": "0"})
    (tmp_path / "hosts").write_bytes(comment + b"node1\t4 # \xe9\r\nnode2\r\n")
    assert read_hosts({"hosts_file": str(tmp_path / "hosts")}) == {"node1": 4, "node2": 1}
    (tmp_path / "hosts").write_bytes(b"node1\xc2\xa04\n")
    with pytest.raises(UserError, match="is not the name of a host"):
        read_hosts({"hosts_file": str(tmp_path / "hosts")})


def test_an_xconfig_file_may_have_comments_in_any_encoding(tmp_path: Path) -> None:
    text = b"# caf\xe9\xe2\x80\xa8\r\ninput\tdim=3 name=input \r\noutput-layer name=output dim=2 # \xb5\r\n"
    (tmp_path / "xconfig").write_bytes(text)
    command = [str(ROOT / "steps/xconfig_to_configs.py"), "--xconfig-file=xconfig", "--config-dir=configs"]
    done = run(tmp_path, *command, **LOCALES[ASCII])
    assert done.returncode == 0, done.stderr
    assert b"\n# caf\xe9\xe2\x80\xa8\n" in (tmp_path / "configs/xconfig").read_bytes()
    (tmp_path / "xconfig").write_bytes(text.replace(b"\tdim", b"\xc2\xa0dim"))
    done = run(tmp_path, *command)
    assert done.returncode == 1
    assert b"xconfig:2: '\\xa0' cannot stand in an xconfig file" in done.stderr


def test_a_blank_that_no_shell_would_split_at_does_not_part_two_options() -> None:
    assert require_plain_words("--cmvn-opts", "--norm-means=true --norm-vars=true")
    with pytest.raises(UserError, match="expected words of letters"):
        require_plain_words("--cmvn-opts", "--norm-means=true\xa0--norm-vars=true")


def test_a_record_gives_back_what_is_not_utf8(tmp_path: Path) -> None:
    values = {"data_used": "left out caf\udce9, \u3000\u2028", "options": "\x85"}
    assert Experiment(str(tmp_path)).record("made_with.json", values, force=False) == {}
    assert Experiment(str(tmp_path)).record("made_with.json", values, force=False) == {}
    changed = Experiment(str(tmp_path)).record("made_with.json", {**values, "options": "\udc85"}, force=False)
    assert changed == {"options": ("\x85", "\udc85")}


def test_messages_show_bytes_and_hide_what_drives_terminals() -> None:
    assert log.escaped("plain text\t%") == "plain text\t%"
    assert log.escaped("é话\U0001f600") == "é话\U0001f600"
    assert log.escaped("a\udce9b\udc85\x1b[2J\x85\u3000") == "a\\xe9b\\x85\\x1b[2J\\x85\\u3000"


def test_the_recipes_lexicon_and_alignments_keep_words_and_phones(tmp_path: Path) -> None:
    local = ROOT / "egs/digits/s5/local"
    (tmp_path / "prons.txt").write_bytes(b"u1\xc2\x85 new\xc2\xa0york N\xe9 \xe3\x80\x80\r\nu2 \xe4 N\xe9\r\n")
    done = run(tmp_path, sys.executable, str(local / "prepare_lexicon.py"), "prons.txt", "local/lexicon.txt")
    assert done.returncode == 0, done.stderr
    lexicon = (tmp_path / "local/lexicon.txt").read_bytes()
    assert lexicon == b"new\xc2\xa0york 1.0000 N\xe9 \xe3\x80\x80\n\xe4 1.0000 N\xe9\n"
    pytest.importorskip("kaldifst")
    prepare_language(str(tmp_path / "local/lexicon.txt"), str(tmp_path / "lang"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/utt2num_frames").write_bytes(b"u1\xc2\x85\t20\r\n")
    (tmp_path / "data/phones.ctm").write_bytes(b"u1\xc2\x85 1 0 0.1 N\xe9\r\nu1\xc2\x85 1 0.1 0.1 \xe3\x80\x80\r\n")
    done = run(tmp_path, sys.executable, str(local / "align_phones.py"), "data", "lang", "ali")
    assert done.returncode == 0, done.stderr
    with SequentialReader(f"ark:gunzip -c {tmp_path}/ali/ali.1.gz |", INT_VECTOR) as reader:
        ((key, alignment),) = reader
    assert (key, len(alignment)) == ("u1\x85", 20)
    assert (tmp_path / "ali/phones.txt").read_bytes() == (tmp_path / "lang/phones.txt").read_bytes()


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        (
            "surrogateescape",
            {"text/characters.py", "text/any_locale.py", "text/lines.py", "jobs/scheduler.py", "gpu/matrix_product.py"},
        ),
        ('errors="replace"', set()),
        (
            r"splitlines\(\)",
            {"jobs/sge.py", "jobs/slurm.py", "jobs/gpus.py", "gpu/device.py", "features/extraction.py"},
        ),
        (r"sorted\((?:features|utterances|keys)\)", set()),
    ],
)
def test_text_is_decoded_split_and_sorted_in_one_place(pattern: str, places: set[str]) -> None:
    """What else there is are answers of schedulers and of libraries, and Linux's list of what is mapped into memory."""
    package = ROOT / "nnet3py"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found == places
