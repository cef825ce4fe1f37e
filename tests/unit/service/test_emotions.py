from __future__ import annotations

from backend.service.emotions import (
    ALL_MARKERS,
    MARKER_GROUPS,
    POCKET_MARKERS,
    known_markers,
    without_unknown_markers,
)


def test_all_66_markers_are_there_once():
    names = [marker.name for group in MARKER_GROUPS for marker in group.markers]
    assert [len(group.markers) for group in MARKER_GROUPS] == [24, 27, 5, 10]
    assert len(set(names)) == 66


def test_every_example_uses_its_marker():
    for group in MARKER_GROUPS:
        for marker in group.markers:
            assert marker.marker in marker.example
            unknown = marker.name not in POCKET_MARKERS
            assert without_unknown_markers(marker.example, "pocket")[1] == unknown


def test_only_markers_the_model_does_not_know_are_taken_out():
    text = "(Joyful) No (really) not! (in a hurry tone) Go. (sneering)"
    assert without_unknown_markers(text, "pocket") == ("No (really) not! (in a hurry tone) Go.", 2)
    for model in ("openaudio-s1-mini", "/my/model"):
        assert without_unknown_markers(text, model) == (text, 0)


def test_what_is_known_about_models():
    assert known_markers("pocket") == POCKET_MARKERS
    assert known_markers("openaudio-s1-mini") == ALL_MARKERS
    assert known_markers("/my/model") is None
    assert POCKET_MARKERS < ALL_MARKERS
