"""The Check tab: fields of one's own, measured."""
