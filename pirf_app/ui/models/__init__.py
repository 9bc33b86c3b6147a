"""The Models tab: what there is, and what a visitor adds."""
