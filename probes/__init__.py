"""Probes: the small heads that read frozen features, and the trainer that fits a whole grid of them at once."""
