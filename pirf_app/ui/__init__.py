"""The web page. The only part of the package that imports gradio or plotly."""
