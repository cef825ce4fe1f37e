"""How the Gradio page looks: colors and type. Fonts are the system's own, nothing is fetched."""

# Gradio's own types are partial.
# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false

from __future__ import annotations

from ui.quiet_gradio import gr

FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Inter", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Cascadia Code", "Consolas", "monospace")

INK, INK_DARK = "#16211f", "#e8efed"
SUBDUED, SUBDUED_DARK = "#5a6b67", "#93a5a1"
LINE, LINE_DARK = "#dfe6e3", "#26312f"
PAPER, PAPER_DARK = "#f6f8f7", "#0c1211"
PANEL, PANEL_DARK = "#ffffff", "#131b1a"
ACCENT, ACCENT_DARK = "#0b7a6e", "#2dd4bf"


def page_theme() -> gr.themes.Base:
    """Make the theme of the page, light and dark."""
    base = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="zinc",
        radius_size="lg",
        spacing_size="md",
        font=FONT,
        font_mono=MONO,
    )
    return base.set(
        body_background_fill=PAPER,
        body_background_fill_dark=PAPER_DARK,
        body_text_color=INK,
        body_text_color_dark=INK_DARK,
        body_text_color_subdued=SUBDUED,
        body_text_color_subdued_dark=SUBDUED_DARK,
        background_fill_primary=PANEL,
        background_fill_primary_dark=PANEL_DARK,
        background_fill_secondary=PAPER,
        background_fill_secondary_dark=PAPER_DARK,
        border_color_primary=LINE,
        border_color_primary_dark=LINE_DARK,
        border_color_accent=ACCENT,
        border_color_accent_dark=ACCENT_DARK,
        color_accent=ACCENT,
        block_background_fill=PANEL,
        block_background_fill_dark=PANEL_DARK,
        block_border_color=LINE,
        block_border_color_dark=LINE_DARK,
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_text_color=SUBDUED,
        block_label_text_color_dark=SUBDUED_DARK,
        block_title_text_color=INK,
        block_title_text_color_dark=INK_DARK,
        block_title_text_weight="600",
        block_info_text_color=SUBDUED,
        block_info_text_color_dark=SUBDUED_DARK,
        input_background_fill=PANEL,
        input_background_fill_dark="#0f1615",
        input_border_color=LINE,
        input_border_color_dark=LINE_DARK,
        input_border_color_focus=ACCENT,
        input_border_color_focus_dark=ACCENT_DARK,
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px color-mix(in srgb, var(--color-accent) 18%, transparent)",
        slider_color=ACCENT,
        slider_color_dark=ACCENT_DARK,
        button_primary_background_fill=ACCENT,
        button_primary_background_fill_dark=ACCENT_DARK,
        button_primary_background_fill_hover="#086459",
        button_primary_background_fill_hover_dark="#5eead4",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#04201c",
        button_secondary_background_fill=PANEL,
        button_secondary_background_fill_dark="#1a2423",
        button_secondary_border_color=LINE,
        button_secondary_border_color_dark=LINE_DARK,
        button_secondary_text_color=INK,
        button_secondary_text_color_dark=INK_DARK,
        button_border_width="1px",
    )
