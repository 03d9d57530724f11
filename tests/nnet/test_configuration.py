"""Configuration lines: parsing, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.configuration import ConfigLine, config_lines, read_config
from nnet3py.nnet.network import Network


def test_values_may_hold_blanks_and_quotes() -> None:
    line = ConfigLine("component-node name=a component=b input=Append(Offset(x, -1), y)  note='two words'")
    assert line.first_word == "component-node"
    assert line.text_value("input") == "Append(Offset(x, -1), y)"
    assert line.text_value("note") == "two words"


def test_a_tab_separates_as_a_blank_does() -> None:
    line = ConfigLine("input-node\tname=input\tdim=3")
    assert line.first_word == "input-node"
    assert line.integer("dim") == 3


def test_comments_and_empty_lines_are_dropped_and_lines_numbered() -> None:
    lines = list(config_lines(["# all", "", "input-node name=a dim=2 # why", "output-node name=b input=a"], "n.config"))
    assert [line.where for line in lines] == ["n.config:3", "n.config:4"]
    assert lines[0].text == "input-node name=a dim=2"


def test_numbers_lists_and_switches() -> None:
    line = ConfigLine("component a=1.5e-3 b=1,2,-3 c=T d=false e=4")
    assert line.number("a") == 0.0015
    assert line.integers("b") == [1, 2, -3]
    assert line.switch("c") is True
    assert line.switch("d") is False
    assert line.positive("e") == 4
    assert line.number("absent", 2.0) == 2.0
    line.finish()


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("component dim=x", lambda line: line.integer("dim"), "dim=x is not a whole number"),
        ("component dim=2147483648", lambda line: line.integer("dim"), "dim=2147483648 does not fit into the 32 bits"),
        ("component dim=0", lambda line: line.positive("dim"), "dim=0 must be above zero"),
        ("component x=nan", lambda line: line.number("x"), "not finite"),
        ("component x=1e999", lambda line: line.number("x"), "not finite"),
        ("component x=1,,2", lambda line: line.integers("x"), "not a list of whole numbers"),
        ("component x=1,-2147483648", lambda line: line.integers("x"), "does not fit into the 32 bits"),
        ("component x=yes", lambda line: line.switch("x"), "not true or false"),
        ("component y=1", lambda line: line.text_value("x"), "x= is missing"),
        ("component y=1", lambda line: line.finish(), "y= is not understood here"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(text: str, read: object, message: str) -> None:
    line = ConfigLine(text, "n.config:7")
    with pytest.raises(UserError, match=message) as caught:
        read(line)  # type: ignore[operator]
    assert "n.config:7" in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("text", ["component stray name=a", "component words only"])
def test_a_line_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"key=value"):
        ConfigLine(text)


def test_of_a_key_given_twice_the_first_counts_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    line = ConfigLine("component name=output.linear max-change=0.75 output-dim=4  max-change=1.5", "n.config:3")
    assert line.number("max-change") == 0.75
    assert line.integer("output-dim") == 4
    assert "n.config:3: max-change= is given twice: 0.75, the first, counts." in capsys.readouterr().err


def test_a_binary_file_is_not_read_as_configuration(tmp_path: Path) -> None:
    path = tmp_path / "n.config"
    path.write_bytes(b"\0B<Nnet3> \n")
    with pytest.raises(UserError, match=r"n\.config: expected configuration lines of a network, found a network"):
        read_config(str(path))


def test_comments_may_hold_any_byte_and_names_may_not(tmp_path: Path) -> None:
    path = tmp_path / "n.config"
    path.write_bytes(b"# configuraci\xf3n\xe2\x80\xa8\r\n\r\ninput-node\tname=input  dim=3 \r\n")
    (line,) = config_lines(read_config(str(path)).split("\n"), "n.config")
    assert (line.where, line.text_value("name"), line.positive("dim")) == ("n.config:3", "input", 3)
    for name in (b"\xff", b"a\xc2\xa0b", b"a\xe3\x80\x80"):
        path.write_bytes(b"input-node name=" + name + b" dim=3\n")
        with pytest.raises(UserError, match=r"is not a name: .*: input-node name="):
            Network.from_config(read_config(str(path)))
