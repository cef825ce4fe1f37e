from __future__ import annotations

from backend.service.emotions import MARKER_GROUPS, knows_markers, without_markers


def test_all_66_markers_are_there_once():
    names = [marker.name for group in MARKER_GROUPS for marker in group.markers]
    assert [len(group.markers) for group in MARKER_GROUPS] == [24, 27, 5, 10]
    assert len(set(names)) == 66


def test_every_example_uses_its_marker():
    for group in MARKER_GROUPS:
        for marker in group.markers:
            assert marker.marker in marker.example
            assert without_markers(marker.example)[1] == 1


def test_only_markers_are_taken_out():
    assert without_markers("(Angry) No (really) not! (in a hurry tone) Go.") == (
        "No (really) not! Go.",
        2,
    )


def test_what_is_known_about_models():
    assert [knows_markers(model) for model in ("pocket", "openaudio-s1-mini", "/my/model")] == [
        False,
        True,
        None,
    ]
