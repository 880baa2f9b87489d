"""The page's look: a theme on system fonts (nothing is fetched), and what goes into its head."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
# Linked, not given to Gradio, which rewrites what it is given and loses container queries.
# The first script comes before the first paint: a page that is dark must not flash white.
HEAD = """
<link rel="stylesheet" href="tuner/static/elements.css">
<link rel="stylesheet" href="tuner/static/page.css">
<script>
  try {
    const theme = localStorage.getItem("tuner-theme");
    if (theme) document.documentElement.style.colorScheme = theme;
  } catch { /* storage is off: the system's theme it is */ }
</script>
<script type="module" src="tuner/static/page.js"></script>
"""

BLUE = gr.themes.Color(
    c50="#eff4ff",
    c100="#dbe6fe",
    c200="#bfd2fe",
    c300="#93b4fd",
    c400="#7ab0ff",
    c500="#3b73f0",
    c600="#1d4ed8",
    c700="#1a43ba",
    c800="#1a3a96",
    c900="#1b3477",
    c950="#142148",
)


def theme() -> gr.themes.Base:
    """One accent on white or near-black, no shadows, no boxes inside boxes."""
    return gr.themes.Base(
        primary_hue=BLUE,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=list(SANS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#11151b",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#11151b",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_title_text_weight="600",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1a2029",
        input_border_width="1px",
        input_border_color="#7f8896",
        input_border_color_dark="#76808f",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_400",
        button_primary_background_fill_hover_dark="*primary_300",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#11151b",
        block_info_text_color="#55606e",
        block_info_text_color_dark="#9aa7b8",
    )
