"""Contestants of other frameworks, which need not be installed."""
