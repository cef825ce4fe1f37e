from __future__ import annotations

import pytest

from backend.api.openai.names import choose_voice
from backend.core.errors import VoiceNotFoundError
from backend.service.voices import Voice, VoiceLibrary, VoiceReference

ALIASES = {"alloy": "kit", "echo": "ross", "nova": "gone", "onyx": "lost", "sage": "away"}


def voice(name: str, problem: str = "") -> Voice:
    return Voice(id=f"id-{name}", name=name, references=(VoiceReference("", 1.0),), problem=problem)


LIBRARY = VoiceLibrary([voice("kit"), voice("Ross"), voice("echo"), voice("broken", "why")])
EMPTY = VoiceLibrary([])


def test_a_voice_is_found_by_name_and_by_id():
    assert choose_voice("Kit", LIBRARY, ALIASES).voice == "id-kit"
    assert choose_voice("id-Ross", LIBRARY, ALIASES).voice == "id-Ross"


def test_an_alias_means_its_voice():
    chosen = choose_voice("ALLOY", LIBRARY, ALIASES)
    assert (chosen.voice, chosen.warning) == ("id-kit", None)


def test_a_voice_of_the_aliass_name_comes_first():
    assert choose_voice("echo", LIBRARY, ALIASES).voice == "id-echo"


@pytest.mark.parametrize("asked", [None, "", "default", " Default "])
def test_no_name_means_the_default_voice(asked: str | None):
    chosen = choose_voice(asked, LIBRARY, ALIASES)
    assert (chosen.voice, chosen.seed, chosen.warning) == (None, None, None)


def test_an_alias_whose_voice_is_gone_gets_the_same_other_one_every_time_and_says_so():
    chosen = [choose_voice(alias, LIBRARY, ALIASES) for alias in ("nova", "onyx", "sage")]
    assert {item.voice for item in chosen} == {"id-kit", "id-Ross", "id-echo"}
    assert all("speaks instead" in (item.warning or "") for item in chosen)
    assert choose_voice("nova", LIBRARY, ALIASES) == chosen[0]


def test_without_any_voice_an_alias_is_drawn_by_a_seed_of_its_own():
    nova, again, onyx = (choose_voice(alias, EMPTY, ALIASES) for alias in ("nova", "NOVA", "onyx"))
    assert nova.voice is None
    assert nova.seed == again.seed != onyx.seed
    assert "a fixed seed" in (nova.warning or "")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(VoiceNotFoundError, match=r"kit.*alloy"):
        choose_voice("nobody", LIBRARY, ALIASES)
