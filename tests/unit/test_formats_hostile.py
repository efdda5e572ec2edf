"""Files that are wrong, or mean harm: every problem at once with its line, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.topology import Problem, TopologyErrors, load_topology, parse_topology
from deploy.topology.formats import xml_tree
from tests.unit.test_formats_kollaps import STAR, TWO, parse, whole, xml


def problems(text: str | bytes, suffix: str = ".xml") -> list[Problem]:
    """What is wrong with a file; that it is right is a failure."""
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(TopologyErrors) as caught:
        parse_topology(raw, path=Path("test" + suffix))
    return list(caught.value.problems)


def said(text: str) -> dict[int | None, str]:
    return {problem.line: f"{problem.message} | {problem.hint}" for problem in problems(text)}


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;">]>\n'
)


@pytest.mark.parametrize(
    "head",
    [
        BOMB,
        '<!DOCTYPE x [<!ENTITY c SYSTEM "file:///etc/passwd">]>\n',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">\n',
        '<!DOCTYPE x [<!ENTITY % c SYSTEM "file:///etc/passwd"> %c;]>\n',
    ],
)
@pytest.mark.parametrize("suffix", [".xml", ".graphml"])
def test_document_types_and_entities_are_refused(head: str, suffix: str) -> None:
    (problem,) = problems(head + xml().replace('name="a"', 'name="&c;"'), suffix)
    assert "a document type (DTD) and its entities are not read" in problem.message
    assert problem.line == head.count("\n")
    assert "root:" not in str(problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is nothing in it"),
        ("hello", "not valid XML"),
        ("<experiment>", "not valid XML"),
        ("<a><b></a>", "not valid XML"),
        ("\x00\x01\x02", "not valid XML"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "not valid XML"),
        ("<topology/>", "the root is <topology>, not <experiment>"),
        ("<experiment/>", "there is no <services>"),
        ('<a x="1" x="2"/>', "not valid XML: duplicate attribute"),
        ("<experiment>" + "<a>" * 500_000, "nested more than 20 deep"),
        ("<experiment>" + "word " * 500_000, "characters of text"),
    ],
)
def test_what_is_no_kollaps_file(text: str, message: str) -> None:
    assert message in problems(text)[0].message


def test_limits_of_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more than 32 MiB" in problems(b"<" * (xml_tree.MAX_BYTES + 1))[0].message
    monkeypatch.setattr(xml_tree, "MAX_ELEMENTS", 10)
    assert "more than 10 elements" in problems("<experiment>" + "<a/>" * 20)[0].message


def test_unknown_tags_and_attributes_have_the_nearest_spelling() -> None:
    found = said(
        '<experiment boot="b">\n<servces/>\n<services>\n<service name="a" image="i" replica="2"/>\n'
        '<service name="b"/>\n</services>\n<links>\n<lnk/>\n'
        '<link origin="a" dest="b" latncy="1" latency="1" upload="1Mbps"/>\n</links>\n'
        '<dynamic>\n<schedule name="a" time="1" action="jion"/>\n</dynamic></experiment>'
    )
    assert "did you mean 'services'" in found[2]
    assert "did you mean 'replicas'" in found[4]
    assert "did you mean 'link'" in found[8]
    assert "did you mean 'latency'" in found[9]
    assert "did you mean 'join'" in found[12]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('latency="5"', 'latency="-5"', "must not be negative"),
        ('latency="5"', 'latency="5ms"', "'5ms' is not a number of milliseconds"),
        ('latency="5"', 'latency="nan"', "'nan' is not a number"),
        ('latency="5"', 'latency="inf"', "'inf' is not a number"),
        ('latency="5"', 'latency="1e99"', "at most 60000"),
        ('latency="5"', 'latency="1e999999999"', "is not a number"),
        ('latency="5"', 'latency="5" jitter="x"', "jitter: 'x' is not a number"),
        ('latency="5"', 'latency="5" drop="5"', "a probability between 0 and 1"),
        ('latency="5"', 'latency="5" drop="1"', "at most 0.999"),
        ('latency="5"', "", "needs the attribute 'latency'"),
        ('origin="a"', "", "needs the attribute 'origin'"),
        ('origin="a"', 'origin="aa"', "there is no service or bridge 'aa'"),
        ('upload="10Mbps"', 'upload="999Gbps"', "between 1Kbps and 400Gbps"),
        ('upload="10Mbps"', 'upload="9' + "9" * 5000 + 'Mbps"', "is not a rate"),
        ('upload="10Mbps"', "", "needs the attribute 'upload'"),
    ],
)
def test_values_that_cannot_be(old: str, new: str, message: str) -> None:
    (problem,) = problems(xml(links=STAR.replace(old, new)))
    assert message in problem.message
    assert problem.line == 5


@pytest.mark.parametrize(
    ("services", "message"),
    [
        (TWO + '<service name="a" image="i"/>', "a second thing called 'a'"),
        (TWO + '<service name="A" image="i"/>', "'A' and 'a' are both 'a' here"),
        (TWO + '<service name="s" image="i"/>', "a second thing called 's'"),
        (TWO + '<service image="i"/>', "needs the attribute 'name'"),
        (TWO + '<service name="???" image="i"/>', "cannot be the name of a service"),
        (TWO + f'<service name="{"x" * 41}" image="i"/>', "cannot be the name of a service"),
        (TWO.replace('"b"', '"b" replicas="0"'), "is not a whole number from 1 on"),
        (TWO.replace('"b"', '"b" replicas="1000000"'), "more than 4096 replicas"),
        (TWO.replace('"b"', '"b" share="yes"'), "neither true nor false"),
        (TWO.replace('"b"', '"b" activepaths="[\'q\']"'), "there is no service 'q'"),
        (TWO.replace('"b"', '"b" activepaths="[\'a\',]"'), "is not a list of services"),
    ],
)
def test_services_that_cannot_be(services: str, message: str) -> None:
    assert any(message in problem.message for problem in problems(xml(services=services)))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ('name="a" time="-1" action="join"', "must not be negative"),
        ('name="a" time="soon" action="crash"', "is not a number of seconds"),
        ('name="a" action="crash"', "needs the attribute 'time'"),
        ('name="a" time="1"', "needs the attribute 'action'"),
        ('name="q" time="1" action="crash"', "there is no service or bridge 'q'"),
        ('name="s" time="1" action="crash"', "'crash' is not allowed"),
        ('name="s" time="1" action="leave" amount="2"', "a bridge is only one"),
        ('name="a" time="1" action="leave" amount="2"', "takes 2 replicas away where only 1"),
        ('name="a" origin="a" dest="s" time="1" action="leave"', "not both"),
        ('origin="a" dest="s" time="1"', "changes nothing of a -> s"),
        ('origin="a" dest="b" time="1" upload="1Mbps"', "there is no link from 'a' to 'b'"),
        ('origin="a" dest="b" time="1" action="join"', "needs the attribute 'latency'"),
        ('origin="a" dest="s" time="1" upload="1Mbps" amount="2"', "has no attribute 'amount'"),
    ],
)
def test_events_that_cannot_be(event: str, message: str) -> None:
    text = xml(dynamic=whole("ab", f"\n<schedule {event}/>"))
    found = problems(text)
    assert any(message in problem.message and problem.line == 8 for problem in found), found


def test_what_stands_twice_or_leads_nowhere_has_the_line_of_the_xml() -> None:
    found = said(xml(links=STAR + "\n" + STAR.splitlines()[1]))
    assert "a second link between 'a' and 's'" in found[7]
    loop = '\n<link origin="a" dest="a" latency="1" upload="1Mbps" network="n"/>'
    assert "a link from 'a' to itself" in said(xml(links=STAR + loop))[7]


def test_a_network_in_two_parts_is_an_error_and_one_with_cycles_is_not() -> None:
    apart = STAR.replace('origin="b" dest="s"', 'origin="b" dest="t"')
    bridges = '<bridge name="s"/><bridge name="t"/>'
    (problem,) = problems(xml(links=apart, bridges=bridges))
    assert "the overlay falls into 2 parts" in problem.message
    around = "".join(
        f'<link origin="{a}" dest="{b}" latency="1" upload="1Mbps" download="1Mbps" network="n"/>'
        for a, b in ("st", "tu", "us")
    )
    topology = parse(xml(links=apart + around, bridges=bridges + '<bridge name="u"/>'))
    assert topology.overlay["a"] == ("b",)


def test_many_mistakes_end_at_a_limit() -> None:
    bad = '<link origin="a" dest="nowhere" latency="1" upload="1Mbps" network="n"/>' * 5000
    found = problems(xml(links=bad))
    assert len(found) == 201
    assert any("the rest was not looked at" in problem.message for problem in found)


def test_other_encodings_are_read() -> None:
    text = '<?xml version="1.0" encoding="iso-8859-1"?>\n' + xml().replace("kollaps:2.0", "\xe9")
    assert parse_topology(text.encode("latin-1"), path=Path("t.xml")).nodes
    assert parse_topology(b"\xef\xbb\xbf" + xml().encode(), path=Path("t.xml")).nodes
    assert parse_topology(xml().encode("utf-16"), path=Path("t.xml")).nodes


def test_options_that_the_format_does_not_have() -> None:
    with pytest.raises(TopologyErrors, match=r"Kollaps XML have no option format\.latency"):
        parse(xml(), "format.latency=rtt")
    with pytest.raises(TopologyErrors, match="YAML have no option"):
        parse_topology(b"nodes: 2", path=Path("t.yaml"), overrides=["format.unit=ms"])


def test_a_missing_file_has_the_nearest_one_of_any_format(tmp_path: Path) -> None:
    (tmp_path / "backbone.graphml").write_text("")
    with pytest.raises(TopologyErrors, match=r"did you mean .*backbone\.graphml"):
        load_topology(tmp_path / "backbon.graphml")
