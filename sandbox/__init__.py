"""Runs untrusted programs. Imports nothing of rlvr."""

from rlvr.sandbox.job import Limits, Program, Result, Status, Tier

__all__ = ["Limits", "Program", "Result", "Status", "Tier"]
