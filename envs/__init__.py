"""Environments: what a policy reads next, until the episode is over."""
