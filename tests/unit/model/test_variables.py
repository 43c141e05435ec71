"""`${VAR}`: the table of a compose file, and types after substitution."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.model import load
from vswitch.model.catalogue import Catalogue
from vswitch.model.variables import VariableError, Variables

ENVIRONMENT = {"SET": "value", "EMPTY": "", "OTHER": "o", "BRACE": "${SET}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${SET}", "value"),
        ("a${SET}b${OTHER}c", "avaluebo" + "c"),
        ("${EMPTY}", ""),
        ("${UNSET}", ""),
        ("${SET:-d}", "value"),
        ("${EMPTY:-d}", "d"),
        ("${UNSET:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${UNSET-d}", "d"),
        ("${SET:+r}", "r"),
        ("${EMPTY:+r}", ""),
        ("${UNSET:+r}", ""),
        ("${EMPTY+r}", "r"),
        ("${SET:?why}", "value"),
        ("${EMPTY?why}", ""),
        ("${UNSET:-${EMPTY:-${SET}}}", "value"),
        ("${UNSET:-a b, {c: ${OTHER}}}", "a b, {c: o}"),
        ("${UNSET:-}", ""),
        ("$${SET}", "${SET}"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("${BRACE}", "${SET}"),
        ("echo $HOME $(pwd) $1 $", "echo $HOME $(pwd) $1 $"),
        ("awk '{print $1}'", "awk '{print $1}'"),
    ],
)
def test_reference_is_replaced_as_in_compose(text: str, expected: str) -> None:
    # "{c: ...}" ends at the first brace, as in a shell: the default above is "a b, {c: o", then a literal "}".
    assert Variables(ENVIRONMENT).substitute(text)[0] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${UNSET:?say it}", "variable UNSET is not set: say it"),
        ("${EMPTY:?say it}", "variable EMPTY is not set: say it"),
        ("${UNSET?}", "variable UNSET is not set"),
        ("${UNSET:?ask ${OTHER}}", "variable UNSET is not set: ask o"),
        ("${", "not followed by a variable's name"),
        ("${}", "not followed by a variable's name"),
        ("${1X}", "not followed by a variable's name"),
        ("${SET", "not closed"),
        ("${SET:-x", "not closed"),
        ("${SET/x/y}", "not closed by '}', or"),
        ("${SET:x}", "not closed by '}', or"),
    ],
)
def test_malformed_and_required_references_are_refused(text: str, message: str) -> None:
    with pytest.raises(VariableError) as caught:
        Variables(ENVIRONMENT).substitute(text)
    assert message in str(caught.value)


def test_only_missing_variables_without_a_default_are_reported() -> None:
    text = "${A} ${B:-x} ${C:+y} ${SET:-${D}} ${E:-${F}} ${EMPTY} ${H-}"
    assert Variables(ENVIRONMENT).substitute(text)[1] == ["A", "F"]


@given(st.text())
def test_text_with_its_dollars_doubled_comes_out_as_it_was(text: str) -> None:
    assert Variables(ENVIRONMENT).substitute(text.replace("$", "$$")) == (text, [])


@given(st.text(alphabet="${}:-?+AB x", max_size=40))
def test_any_text_is_substituted_or_refused(text: str) -> None:
    try:
        result, unset = Variables({"A": "1"}).substitute(text)
    except VariableError:
        return
    assert isinstance(result, str)
    assert all(re.fullmatch("[ABx]+", name) and name != "A" for name in unset)


def test_substituted_value_gets_the_type_of_what_it_holds(catalogue: Catalogue) -> None:
    text = (
        "seed: ${SEED:-7}\nnodes:\n  a:\n    kind: machine\n    memory: ${MEM:-96M}\n    cpus: ${CPUS:-2}\n"
        '    agent: ${AGENT:-true}\n  b: {kind: machine, cpus: "${CPUS:-3}", env: {N: "${CPUS:-3}", E: "${NONE}"}}\n'
    )
    lab = load("lab.yaml", text=text, env={}, catalogue=catalogue)
    assert lab.seed == 7
    assert lab.nodes["a"].settings == {"memory": "96M", "cpus": 2, "agent": True}
    assert lab.nodes["b"].settings == {"cpus": 3}
    assert lab.nodes["b"].env == {"N": "3", "E": ""}
    lab = load("lab.yaml", text=text, env={"SEED": "9", "MEM": "1G", "CPUS": "4"}, catalogue=catalogue)
    assert (lab.seed, lab.nodes["a"].settings["memory"], lab.nodes["b"].settings["cpus"]) == (9, "1G", 4)


def test_value_of_a_variable_is_never_read_as_yaml(catalogue: Catalogue) -> None:
    env = {"EVIL": "x}\nnodes: {b: {kind: host}}"}
    lab = load("lab.yaml", text="nodes:\n  a:\n    kind: host\n    env: {A: '${EVIL}'}\n", env=env, catalogue=catalogue)
    assert list(lab.nodes) == ["a"]
    assert lab.nodes["a"].env == {"A": env["EVIL"]}
