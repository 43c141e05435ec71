"""`lab validate`, `config`, `schema` and `graph`, called in this process with what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from vswitch.cli import lab
from vswitch.errors import LabFileError, MachineError

GOOD = """\
name: pair
networks: {lan0: {subnet: 10.0.0.0/24}, spare: {}}
nodes: {a: {kind: netns}, b: {kind: netns}}
links: [[a:eth0, lan0], [b:eth0, lan0]]
"""
BAD = GOOD.replace("kind: netns}, b", "kind: nets}, b").replace("lan0]]", "lan1]]")
WARNING = "lab.yaml:2:41: networks.spare: nothing is linked to it"
ERRORS = [
    "lab.yaml:3:19: nodes.a.kind: unknown kind 'nets'; known: netns, qemu; did you mean 'netns'?",
    "lab.yaml:4:34: links[1][1]: unknown network 'lan1'; known: lan0, spare; did you mean 'lan0'?",
]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(GOOD)
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(lab, arguments, input=stdin)


def test_validate_of_a_good_file_counts_what_is_in_it_and_shows_warnings() -> None:
    result = run("validate", "lab.yaml")
    assert (result.exit_code, result.stdout) == (0, "ok: 2 nodes, 2 networks, 2 links, 0 checks\n")
    assert result.stderr == f"warning: {WARNING}\n"


def test_outside_ports_are_counted_and_planned(directory: Path) -> None:
    (directory / "lab.yaml").write_text(GOOD.replace("spare: {}", "spare: {ports: {t: {type: tap}, u: {type: tap}}}"))
    assert run("validate").stdout == "ok: 2 nodes, 2 networks, 2 links, 0 checks, 2 outside ports\n"
    assert "add network spare (switch), with outside ports: t (tap), u (tap)\n" in run("up", "--dry-run").stdout


def test_validate_of_a_bad_file_reports_every_mistake_and_fails(directory: Path) -> None:
    (directory / "lab.yaml").write_text(BAD)
    result = run("validate")
    assert isinstance(result.exception, LabFileError)
    assert result.exception.exit_code == 1
    assert [line.split(";")[0] for line in result.exception.problems] == [line.split(";")[0] for line in ERRORS]
    assert result.stdout == ""


def test_validate_in_json_has_the_parts_of_each_message(directory: Path) -> None:
    (directory / "lab.yaml").write_text(BAD)
    result = run("validate", "-f", "json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [(row["severity"], row["file"], row["line"], row["column"], row["where"]) for row in rows[:2]] == [
        ("error", "lab.yaml", 3, 19, "nodes.a.kind"),
        ("error", "lab.yaml", 4, 34, "links[1][1]"),
    ]
    assert {row["severity"] for row in rows[2:]} == {"warning"}
    assert rows[1]["what"].startswith("unknown network 'lan1'")


def test_validate_in_json_of_a_good_and_of_an_unreadable_file(directory: Path) -> None:
    result = run("validate", "-f", "json")
    assert result.exit_code == 0
    assert [row["severity"] for row in json.loads(result.stdout)] == ["warning"]
    (directory / "lab.yaml").write_bytes(b"\xff")
    result = run("validate", "-f", "json")
    assert result.exit_code == 1
    assert "not UTF-8" in json.loads(result.stdout)[0]["what"]


@pytest.mark.parametrize("verb", ["validate", "config", "graph"])
def test_no_file_given_and_no_lab_yaml_here_exits_2_and_says_so(directory: Path, verb: str) -> None:
    (directory / "lab.yaml").unlink()
    result = run(verb)
    assert result.exit_code == 2
    assert "there is no lab.yaml in this directory; name a lab FILE" in result.stderr
    assert run(verb, "--help").exit_code == 0


def test_file_may_come_from_standard_input() -> None:
    result = run("validate", "-", stdin=GOOD)
    assert result.exit_code == 0
    assert result.stderr == f"warning: {WARNING.replace('lab.yaml', '<stdin>')}\n"


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_config_prints_a_file_that_loads_to_the_same(directory: Path, form: str) -> None:
    first = run("config", "-f", form)
    assert first.exit_code == 0
    assert "10.0.0.2/24" in first.stdout
    (directory / "lab.yaml").write_text(first.stdout)
    assert run("config", "-f", form).stdout == first.stdout


def test_config_of_a_bad_file_fails_with_its_mistakes(directory: Path) -> None:
    (directory / "lab.yaml").write_text(BAD)
    assert isinstance(run("config").exception, LabFileError)


def test_schema_is_printed_as_json_and_takes_the_lab() -> None:
    result = run("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert schema["title"] == "vswitch lab file"
    jsonschema.Draft202012Validator(schema).validate({"nodes": {"a": {"kind": "netns"}}})


def test_graph_is_mermaid_unless_told_otherwise() -> None:
    assert run("graph").stdout.startswith("graph LR\n")
    assert run("graph", "-f", "dot").stdout.startswith('graph "pair" {\n')


def test_graph_as_svg_needs_graphviz_and_names_its_package(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setenv("PATH", str(directory))
    result = run("graph", "-f", "svg")
    assert isinstance(result.exception, MachineError)
    assert "apt install graphviz" in str(result.exception)
    dot = directory / "dot"
    dot.write_text('#!/bin/sh\nread -r first\necho "<svg>$first</svg>"\n')
    dot.chmod(0o755)
    assert run("graph", "-f", "svg").stdout == '<svg>graph "pair" {</svg>\n'
    dot.write_text("#!/bin/sh\necho 'no such layout' >&2; exit 1\n")
    assert "no such layout" in str(run("graph", "-f", "svg").exception)


def test_help_of_the_whole_command_imports_nothing_of_the_model() -> None:
    code = "import sys; from vswitch.cli import lab; lab(['--help'], standalone_mode=False); " + (
        "sys.exit(any(name.startswith(('ruamel', 'msgspec', 'vswitch.model')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
