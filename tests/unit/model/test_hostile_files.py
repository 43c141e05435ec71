"""Files made to cost time or memory are given up early."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.catalogue import Catalogue

from .conftest import lab_text


def problems_of(text: str, catalogue: Catalogue, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(LabFileError) as caught:
        load("lab.yaml", text=text, env=env or {}, catalogue=catalogue)
    return caught.value.problems


def test_file_of_fifty_megabytes_is_refused_without_being_read(tmp_path: Path, catalogue: Catalogue) -> None:
    file = tmp_path / "lab.yaml"
    with file.open("wb") as stream:
        stream.truncate(50 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    with pytest.raises(LabFileError, match="is larger than 1 MiB"):
        load(file, catalogue=catalogue)
    assert time.monotonic() - begun < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10, "KiB"


def test_file_of_a_megabyte_is_read_to_its_end(catalogue: Catalogue) -> None:
    text = "# " + "x" * 1000 + "\n"
    lab = load("lab.yaml", text=text * 1000 + lab_text(), env={}, catalogue=catalogue)
    assert list(lab.nodes) == ["a", "b"]


def test_endless_file_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(LabFileError, match="is larger than 1 MiB"):
        load("/dev/zero", catalogue=catalogue)


@pytest.mark.parametrize("merge", ["", "<<: "])
def test_alias_bomb_is_refused_in_bounded_time(catalogue: Catalogue, merge: str) -> None:
    """Nine levels of ten would be a billion values."""
    level = [
        f"x-{n}: &a{n} [" + ", ".join([f"{{{merge}*a{n - 1}}}" if merge else f"*a{n - 1}"] * 10) + "]"
        for n in range(1, 10)
    ]
    text = "x-0: &a0 {k: v}\n" + "\n".join(level) + "\nnodes: {a: {kind: host}}\n"
    begun = time.monotonic()
    (problem,) = problems_of(text, catalogue)
    assert "more than 100000 values" in problem or "'<<' merges" in problem or "nested more than" in problem
    assert time.monotonic() - begun < 3


def test_chain_of_aliases_cannot_nest_deeper_than_brackets_may(catalogue: Catalogue) -> None:
    chain = ["x-0: &a0 [v]"] + [f"x-{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)]
    (problem,) = problems_of("\n".join(chain) + "\nnodes: {a: {kind: host}}\n", catalogue)
    assert "nested more than 32 deep" in problem


def test_many_scalars_are_given_up_at_the_bound(catalogue: Catalogue) -> None:
    (problem,) = problems_of("x-many: [" + "1," * 300_000 + "]\n", catalogue)
    assert problem == "lab.yaml:1:200004: lab file: more than 100000 values, each alias counted as what it stands for"


def test_variables_cannot_blow_the_file_up(catalogue: Catalogue) -> None:
    text = lab_text(**{"x-big": ["${BIG}"] * 100})
    problems = problems_of(text, catalogue, {"BIG": "x" * 100_000})
    assert any("variables make the file too large" in problem for problem in problems)


def test_deeply_nested_variables_are_refused(catalogue: Catalogue) -> None:
    problems = problems_of(lab_text(name="${A:-" * 5000 + "}" * 5000), catalogue)
    assert "too deep" in problems[0]


def test_message_never_carries_terminal_sequences_or_lines_of_the_file(catalogue: Catalogue) -> None:
    nodes = {"a": {"kind": "\x1b[31m\n" + "k" * 500, "\x1b]0;x": 1}, "\x1b[2J" + "n" * 500: {"kind": "host"}}
    problems = problems_of(lab_text(nodes=nodes), catalogue)
    assert [problem.split(": ")[1][:20] for problem in problems] == [
        "nodes.a.kind",
        "nodes.\\x1b[2Jnnnnnnn",
        "links[1][0]",
    ]
    for problem in problems:
        assert problem.isprintable()
        assert "kkk...'" in problem or "nnn..." in problem or "unknown node 'b'" in problem
        assert "n" * 70 not in problem


def test_huge_numbers_are_refused_not_converted(catalogue: Catalogue) -> None:
    problems = problems_of(
        "seed: " + "9" * 100_000 + "\nnodes: {a: {kind: machine, cpus: " + "9" * 5000 + "}}\n", catalogue
    )
    assert [problem.split(": ")[1] for problem in problems] == ["seed", "nodes.a.cpus"]


def test_lists_that_are_compared_with_each_other_are_short(catalogue: Catalogue) -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(20_000)]
    begun = time.monotonic()
    (problem,) = problems_of(lab_text(networks={"lan0": {"subnet": many}}), catalogue)
    assert problem.endswith("networks.lan0.subnet: expected at most 16 items, not 20000")
    (problem,) = problems_of(
        lab_text(nodes={"a": {"kind": "host", "interfaces": {"e": {"ip": many}}}}, links=[]), catalogue
    )
    assert problem.endswith("interfaces.e.ip: expected at most 64 items, not 20000")
    assert time.monotonic() - begun < 10


def test_vlan_ranges_cost_what_is_written_not_what_they_hold(catalogue: Catalogue) -> None:
    links = [{"endpoints": [f"a:e{port}", "lan0"], "port": {"trunk": ["1-4094"] * 4094}} for port in range(20)]
    begun = time.process_time()
    lab = load("lab.yaml", text=lab_text(networks={"lan0": {}}, links=links), env={}, catalogue=catalogue)
    loaded = time.process_time() - begun
    assert lab.links[0].settings.trunk == ("1-4094",)
    flat = [{"endpoints": [f"a:e{port}", "lan0"], "port": {"trunk": ["7"] * 4094}} for port in range(20)]
    begun = time.process_time()
    load("lab.yaml", text=lab_text(networks={"lan0": {}}, links=flat), env={}, catalogue=catalogue)
    assert loaded < 2 * (time.process_time() - begun) + 1
    (problem,) = problems_of(
        lab_text(links=[{"endpoints": ["a:e", "lan0"], "port": {"trunk": ["1"] * 4095}}]), catalogue
    )
    assert problem.endswith("links[0].port.trunk: expected at most 4094 items, not 4095")


MANY = range(3000)


@pytest.mark.parametrize(
    "sections",
    [
        {"nodes": {f"n{number}": {"kind": f"x{number}"} for number in MANY}},
        {"nodes": {f"n{number}": {"kind": "host", "depends_on": [f"n{number}"]} for number in MANY}, "links": []},
        {
            "nodes": {f"n{number}": {"kind": "host"} for number in MANY},
            "links": [[f"x{number}:e", f"y{number}"] for number in MANY],
        },
    ],
    ids=["kinds", "cycles", "links"],
)
def test_thousands_of_mistakes_cost_little_more_than_a_hundred(
    catalogue: Catalogue, sections: dict[str, object]
) -> None:
    text = lab_text(**sections)
    begun = time.process_time()
    problems = problems_of(text, catalogue)
    assert len(problems) == 101
    assert time.process_time() - begun < 4
