"""Inference: how an image becomes boxes."""
