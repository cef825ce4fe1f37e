"""Gradio that does not call home. The pages take ``gr`` from here.

Gradio reads its switches when it is imported, so they have to be set before.
"""

from ui.settings import prepare_gradio

prepare_gradio()

import gradio as gr  # noqa: E402 - see above

__all__ = ["gr"]
