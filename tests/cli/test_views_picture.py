"""README's picture is what the command prints today."""

import re
from pathlib import Path

import pytest

from tests.tools.picture import ARGUMENTS, TARGET, picture

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_shows_the_picture_and_names_its_command():
    command = re.escape(" ".join(("mlgraph", *ARGUMENTS)).removesuffix(" -o small"))
    assert re.search(rf"!\[{command}\]\(docs/{TARGET.name}\)", README.read_text(encoding="utf-8"))


@pytest.mark.real
def test_the_picture_is_up_to_date():
    assert picture() == TARGET.read_text(encoding="utf-8"), "make it anew: python -m tests.tools.picture"
