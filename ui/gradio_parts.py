"""Building blocks that several tabs of the Gradio page use."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any

from ui.assets import asset
from ui.quiet_gradio import gr

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""How the page's own events are called: no shade over what they change, no place in an API."""


def from_assets(name: str, value: Any, server_functions: list[Any] | None = None) -> gr.HTML:
    """Make a part of the page from its template and its script."""
    return gr.HTML(
        value,
        html_template=asset(f"{name}.html"),
        js_on_load=asset(f"{name}.js"),
        apply_default_css=False,
        server_functions=server_functions,
        elem_id=name,
    )


def heading(title: str, note: str = "") -> gr.HTML:
    """Write the heading of a panel; both texts are the page's own."""
    return gr.HTML(f"<h2>{title}</h2>" + (f"<p class='note'>{note}</p>" if note else ""))


def recording_input(elem_id: str) -> gr.Audio:
    """Ask for a recording: a file, or the microphone."""
    return gr.Audio(
        label="Recording",
        sources=["upload", "microphone"],
        type="filepath",
        buttons=[],  # its share button would leave this machine
        elem_id=elem_id,
        elem_classes="recording",
    )


def slider(label: str, value: float, low: float, high: float, step: float, info: str) -> gr.Slider:
    """Ask for a number."""
    return gr.Slider(low, high, value, step=step, label=label, info=info)
