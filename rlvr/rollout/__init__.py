"""Rollouts: tasks to scored groups, a bounded number of them in flight."""
