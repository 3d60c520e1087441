"""Runtimes: what computes a network, PyTorch or one that runs exported files; all are asked in the same way."""
