"""Evaluation: what AP means here."""
