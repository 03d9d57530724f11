"""Configuration files of queues: what each line means, and what is said of lines that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.errors import UserError
from nnet3py.jobs import queue_conf
from nnet3py.jobs.slurm import Slurm

# The example of Kaldi's documentation of queue.pl (kaldi-asr.org/doc/queue.html), in our words' order.
KALDI = """\
# Default configuration
command qsub -v PATH -cwd -S /bin/bash -j y -l arch=*64*
option mem=* -l mem_free=$0,ram_free=$0
option mem=0          # Do not add anything to qsub_opts
option num_threads=* -pe smp $0
option num_threads=1  # Do not add anything to qsub_opts
option max_jobs_run=* -tc $0
default gpu=0
option gpu=0 -q all.q
option gpu=* -l gpu=$0 -q g.q
"""


def words(text: str, **settings: str) -> list[str]:
    return queue_conf.parse(text, "the file").words(settings)


def test_the_command_is_split_into_words() -> None:
    conf = queue_conf.parse(KALDI, "the file")
    assert conf.command == ["qsub", "-v", "PATH", "-cwd", "-S", "/bin/bash", "-j", "y", "-l", "arch=*64*"]


def test_an_options_value_takes_the_place_of_dollar_zero() -> None:
    assert words(KALDI, mem="2G", gpu="0") == ["-l", "mem_free=2G,ram_free=2G", "-q", "all.q"]


def test_a_line_for_one_value_goes_before_the_line_for_all() -> None:
    assert words(KALDI, num_threads="1", mem="0", gpu="0") == ["-q", "all.q"]
    assert words(KALDI, num_threads="4", gpu="0")[:3] == ["-pe", "smp", "4"]


def test_a_default_counts_where_the_option_is_not_given() -> None:
    assert words(KALDI) == ["-q", "all.q"]
    assert words(KALDI, gpu="2") == ["-l", "gpu=2", "-q", "g.q"]


def test_a_value_stays_within_its_word_whatever_it_contains() -> None:
    value = "2G; touch $HOME/x `id` 'a' \"b\"\nc"
    assert words("command c\noption mem=* --mem=$0 -l $0", mem=value) == [f"--mem={value}", "-l", value]


def test_the_later_of_two_lines_counts() -> None:
    conf = queue_conf.parse("command a\ncommand b -c\noption x=* 1\noption x=* 2 $0\n", "the file")
    assert (conf.command, conf.words({"x": "v"})) == (["b", "-c"], ["2", "v"])


def test_quotes_hold_words_together_and_tabs_separate_them() -> None:
    conf = queue_conf.parse("command\tsbatch --comment='two words'\noption a=*\t-x \"y $0\"", "the file")
    assert conf.command == ["sbatch", "--comment=two words"]
    assert conf.words({"a": "z"}) == ["-x", "y z"]


def test_environment_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCOUNT", "speech; lab")
    assert queue_conf.parse("command sbatch -A $ACCOUNT ${ACCOUNT}2", "f").command == [
        "sbatch",
        "-A",
        "speech; lab",
        "speech; lab2",
    ]
    with pytest.raises(UserError, match=r"f line 2.*NO_SUCH_THING"):
        queue_conf.parse("command sbatch\noption x=* -A $NO_SUCH_THING", "f")


@pytest.mark.parametrize(
    "line", ["option mem", "option mem= -x", "option =4 -x", "default gpu", "default gpu=0 -x", "comand x", "command"]
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(UserError, match=r"^the file line 3: expected .* found '" + line):
        queue_conf.parse(f"command x\n\n  {line}  # why\n", "the file")


def test_quotes_that_do_not_match_are_an_error_with_the_line() -> None:
    with pytest.raises(UserError, match="the file line 1: cannot split"):
        queue_conf.parse("command sbatch 'x", "the file")


def test_a_file_without_a_command_is_an_error() -> None:
    with pytest.raises(UserError, match="the file has no line 'command"):
        queue_conf.parse("option mem=* --mem=$0\n", "the file")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.conf: No such file"):
        queue_conf.read(str(tmp_path / "none.conf"))


def test_an_option_that_the_file_does_not_describe_is_an_error() -> None:
    with pytest.raises(UserError, match=r"--ram-free means nothing to the file.*option ram_free=\*"):
        words(KALDI, ram_free="2G")
    with pytest.raises(UserError, match="--gpu is '3', but the file has it with 0, 1 only"):
        words("command c\noption gpu=0\noption gpu=1 -g", gpu="3")


def test_the_built_in_configuration_of_slurm() -> None:
    assert words(Slurm.default_conf) == []
    assert words(Slurm.default_conf, mem="2G", num_threads="4", gpu="1", time="1:00") == [
        "--mem-per-cpu=2G",
        "--cpus-per-task=4",
        "--gres=gpu:1",
        "--time=1:00",
    ]
    assert words(Slurm.default_conf, mem="0", num_threads="1", gpu="0") == []
