"""Runs untrusted programs. Imports nothing of rlvr."""

from rlvr.sandbox.job import Limits, Program, Result, SandboxUnavailable, Status, Tier
from rlvr.sandbox.sandbox import Sandbox

__all__ = ["Limits", "Program", "Result", "Sandbox", "SandboxUnavailable", "Status", "Tier"]
