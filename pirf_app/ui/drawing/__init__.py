"""Figures, charts, panels and pieces of HTML that the tabs share."""
