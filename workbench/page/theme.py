"""The page's look: neutral greys, one blue, system fonts, little padding, sufficient contrast in light and dark."""

import gradio as gr

SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
BODY = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "color_accent": "*primary_700",
    "color_accent_soft": "*primary_50",
}
BLOCKS = {
    "block_label_text_color": "*neutral_600",
    "block_label_text_color_dark": "*neutral_400",
    "block_title_text_color": "*neutral_600",
    "block_title_text_color_dark": "*neutral_400",
    "block_title_text_weight": "400",
    "block_shadow": "none",
    "block_border_width": "0px",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_padding": "2px",
    "layout_gap": "8px",
}
INPUTS = {
    "input_shadow": "none",
    "input_border_width": "1px",
    "input_radius": "*radius_md",
    "input_background_fill": "*background_fill_primary",
    "input_background_fill_dark": "*neutral_900",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_700",
    "input_padding": "5px 8px",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
}
BUTTONS = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_600",
    "button_primary_text_color": "white",
    "button_secondary_background_fill": "*background_fill_primary",
    "button_secondary_background_fill_dark": "*background_fill_primary",
    "button_secondary_background_fill_hover_dark": "*neutral_800",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_700",
    "button_small_padding": "4px 10px",
}


def theme() -> gr.themes.Base:
    """Gradio's base theme, with less padding and with darker small text."""
    base = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="zinc",
        spacing_size="sm",
        radius_size="sm",
        text_size="sm",
        font=[gr.themes.Font(name) for name in SYSTEM],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    return base.set(**BODY, **BLOCKS, **INPUTS, **BUTTONS)
