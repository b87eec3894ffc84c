"""Rewards: verifiers that turn what a model wrote into a score."""
