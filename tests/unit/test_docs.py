"""The documents: their links lead somewhere, and every verb of the command line is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vswitch.cli import VERBS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_to_files_that_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_named_in_a_document_exist(document: Path) -> None:
    named = set(re.findall(r"^lab ([a-z]+)", document.read_text(), re.MULTILINE))
    assert named <= set(VERBS)
