"""Fields for numbers, as text.

Gradio's own field puts a 0 wherever it is mounted without a value, as in an accordion that is opened, and 0 is a number
that nobody asked for. These stay empty, and what is no number is left for whoever checks it to refuse in words.
"""

import gradio as gr


def number_field(value: float | None = None, **look) -> gr.Textbox:
    """A field for a number, or for none."""
    return gr.Textbox(written(value), max_lines=1, **look)


def written(value: float | None) -> str:
    """A number as it stands in a field; nothing for None."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.10g}"


def read_number(text: str | float | None) -> float | str | None:
    """What was entered in a field: a number, None for nothing, and the text itself where it is no number."""
    text = str("" if text is None else text).strip()
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text) if text else None
    except ValueError:
        return text
