"""The list of hosts of run-ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.errors import UserError
from nnet3py.jobs.hosts import read_hosts


def test_a_file_has_hosts_slots_users_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode1 4\n\n  me@node-2.example.org\t2  # the old one\nnode3\nnode1 1\nfe80::1%eth0 2\n")
    hosts = read_hosts({"hosts_file": str(path)})
    assert list(hosts.items()) == [("node1", 5), ("me@node-2.example.org", 2), ("node3", 1), ("fe80::1%eth0", 2)]


def test_hosts_can_be_named_in_the_option(tmp_path: Path) -> None:
    assert read_hosts({"hosts": "a:4 me@b,c:2"}) == {"a": 4, "me@b": 1, "c": 2}


def test_kaldis_file_is_found_after_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".queue").mkdir()
    (tmp_path / ".queue" / "machines").write_text("kaldi1\nkaldi2\n")
    assert read_hosts({}) == {"kaldi1": 1, "kaldi2": 1}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "hosts").write_text("ours 3\n")
    assert read_hosts({}) == {"ours": 3}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-oProxyCommand=touch${IFS}x 2\n", "hosts:1"),
        ("me@-oProxyCommand=x\n", "hosts:1"),
        ("good\n$(touch x)\n", "hosts:2"),
        ("a;b\n", "hosts:1"),
        ("a 0\n", "slots of a"),
        ("a -1\n", "slots of a"),
        ("a many\n", "slots of a"),
        ("a 2 3\n", "hosts:1"),
        ("# nobody\n", "names no host"),
    ],
)
def test_a_line_that_is_not_a_host_is_refused_by_its_number(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_hosts({"hosts_file": str(path)})


@pytest.mark.parametrize("option", ["a:0", "a:x", "-F", "", "a b:"])
def test_a_bad_option_is_refused(option: str) -> None:
    with pytest.raises(UserError, match="--hosts"):
        read_hosts({"hosts": option})


def test_no_list_or_two_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="conf/hosts"):
        read_hosts({})
    with pytest.raises(UserError, match="Cannot read"):
        read_hosts({"hosts_file": "missing"})
    with pytest.raises(UserError, match="exclude"):
        read_hosts({"hosts_file": "x", "hosts": "a"})
