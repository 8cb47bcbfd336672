"""Gradient variants side by side: what is measured, and the report of it."""
