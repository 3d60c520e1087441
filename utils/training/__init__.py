"""Training: what one step is, and how the steps add up."""
