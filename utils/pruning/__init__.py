"""Fewer channels: who goes with whom, what matters least, the smaller network, and the proof that it is the same."""
