"""Every bad lab file under bad/ gives exactly the messages beside it: all of them, in file order, with positions."""

from __future__ import annotations

from pathlib import Path

import pytest

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.catalogue import Catalogue

BAD = Path(__file__).parent / "bad"


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_bad_file_gives_the_messages_beside_it(
    name: str, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(LabFileError) as caught:
        load(f"{name}.yaml", env={}, catalogue=catalogue)
    expected = (BAD / f"{name}.txt").read_text().replace("$BAD", str(BAD))
    assert str(caught.value) + "\n" == expected
    assert caught.value.problems == expected.splitlines()


def test_there_are_at_least_forty_bad_files_and_no_message_without_its_file() -> None:
    files = {path.stem for path in BAD.glob("*.yaml")}
    assert len(files) >= 40
    assert {path.stem for path in BAD.glob("*.txt")} == files
