"""Data: what reaches the network, and in what units."""
