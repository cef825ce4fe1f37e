"""The markers of the S1 family: emotions, tones and sounds, written in parentheses in the text.

Source: the model card of OpenAudio S1 (fishaudio/openaudio-s1-mini), which lists them by group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backend.core.model_location import POCKET_MODEL, S1_MINI_MODEL


@dataclass(frozen=True, slots=True)
class Marker:
    """One marker.

    Attributes:
        name: Without the parentheses.
        use: Where it goes.
        example: A text that uses it.
    """

    name: str
    use: str
    example: str

    @property
    def marker(self) -> str:
        """What is written in the text."""
        return f"({self.name})"


@dataclass(frozen=True, slots=True)
class MarkerGroup:
    """Markers of one kind.

    Attributes:
        name: ``emotions``, ``advanced_emotions``, ``tones`` or ``effects``.
        use: How this kind is used.
        markers: In the order of the model card.
    """

    name: str
    use: str
    markers: tuple[Marker, ...]


_AT_START = "At the start of a sentence; it colors the whole sentence."
_ANYWHERE = "Anywhere in a sentence; it holds from there on."
_WITH_SOUND = "Anywhere; works best when the sound itself follows in letters."

_BASIC = {
    "angry": "How dare you say that!",
    "sad": "I wish we had more time.",
    "excited": "We won the first prize!",
    "surprised": "You are here already?",
    "satisfied": "That went exactly as planned.",
    "delighted": "What a lovely present!",
    "scared": "There is somebody at the door.",
    "worried": "She should have called by now.",
    "upset": "Nobody asked what I think.",
    "nervous": "It is my turn in a minute.",
    "frustrated": "It fails every single time.",
    "depressed": "Nothing seems to matter today.",
    "empathetic": "I know how hard this is for you.",
    "embarrassed": "I called him by the wrong name.",
    "disgusted": "Something in here smells rotten.",
    "moved": "You came all this way for me.",
    "proud": "She built it with her own hands.",
    "relaxed": "There is no hurry at all.",
    "grateful": "Thank you for everything.",
    "confident": "I have done this many times.",
    "interested": "Tell me more about it.",
    "curious": "What is behind that door?",
    "confused": "Which of the two do you mean?",
    "joyful": "The sun is out and we are free!",
}
_ADVANCED = {
    "disdainful": "As if that were worth my time.",
    "unhappy": "This is not what I hoped for.",
    "anxious": "What if nobody comes?",
    "hysterical": "It is everywhere, get it off me!",
    "indifferent": "Do what you like.",
    "impatient": "Can we go now?",
    "guilty": "It was me who broke it.",
    "scornful": "You call that an answer?",
    "panicked": "The brakes do not work!",
    "furious": "Get out of my house!",
    "reluctant": "If I really have to.",
    "keen": "I can start right away.",
    "disapproving": "That is no way to behave.",
    "negative": "This will never work.",
    "denying": "No, I was not even there.",
    "astonished": "It speaks!",
    "serious": "Listen to me carefully.",
    "sarcastic": "What a brilliant idea.",
    "conciliative": "Let us forget the whole thing.",
    "comforting": "It will be all right.",
    "sincere": "I mean every word of it.",
    "sneering": "Look who came crawling back.",
    "hesitating": "Well, perhaps, I am not sure.",
    "yielding": "All right, you may have it.",
    "painful": "My back hurts with every step.",
    "awkward": "So, nice weather today.",
    "amused": "He put the cake in the washing machine.",
}
_TONES = {
    "in a hurry tone": "Quick, the train leaves in a minute.",
    "shouting": "Can anybody hear me?",
    "screaming": "Watch out!",
    "whispering": "Do not wake the baby.",
    "soft tone": "Close your eyes and rest.",
}
_EFFECTS = {
    "laughing": "Ha, ha, ha!",
    "chuckling": "Heh, heh.",
    "sobbing": "Hu, hu, hu.",
    "crying loudly": "Waah, waah!",
    "sighing": "Hah.",
    "panting": "Huff, huff.",
    "groaning": "Ugh.",
    "crowd laughing": "Ha, ha, ha!",
    "background laughter": "Ha, ha.",
    "audience laughing": "Ha, ha, ha!",
}


def _group(name: str, use: str, sentences: dict[str, str]) -> MarkerGroup:
    markers = (Marker(m, use, f"({m}) {sentence}") for m, sentence in sentences.items())
    return MarkerGroup(name, use, tuple(markers))


MARKER_GROUPS = (
    _group("emotions", _AT_START, _BASIC),
    _group("advanced_emotions", _AT_START, _ADVANCED),
    _group("tones", _ANYWHERE, _TONES),
    _group("effects", _WITH_SOUND, _EFFECTS),
)
"""All 66 markers."""

_NAMES = "|".join(re.escape(m.name) for group in MARKER_GROUPS for m in group.markers)
_MARKER = re.compile(rf"\s*\((?P<name>{_NAMES})\)", re.IGNORECASE)


POCKET_MARKERS = frozenset(
    {
        "whispering",
        "shouting",
        "soft tone",
        "in a hurry tone",
        "sad",
        "excited",
        "angry",
        "sighing",
    }
)
"""What the pocket voice was trained with and acts out measurably (``backend/docs/pocket.md``)."""

ALL_MARKERS = frozenset(marker.name for group in MARKER_GROUPS for marker in group.markers)


def known_markers(model: str) -> frozenset[str] | None:
    """Give the names of the markers a model was trained with; None when nobody knows.

    Args:
        model: ``EngineInfo.model``.
    """
    return {POCKET_MODEL: POCKET_MARKERS, S1_MINI_MODEL: ALL_MARKERS}.get(model)


def without_unknown_markers(text: str, model: str) -> tuple[str, int]:
    """Take the markers that a model does not know out of a text and tell how many there were.

    A model would read them out. Where nobody knows, all of them stay.
    """
    known = known_markers(model)
    if known is None:
        return text, 0
    num_removed = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal num_removed
        if match.group("name").casefold() in known:
            return match.group()
        num_removed += 1
        return ""

    return _MARKER.sub(replace, text).strip(), num_removed
