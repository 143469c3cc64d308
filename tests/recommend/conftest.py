"""The small music service of music_for_recommend.py, made once."""

import pytest
from music_for_recommend import Music, made


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Music:
    return made(tmp_path_factory.mktemp("music"))
