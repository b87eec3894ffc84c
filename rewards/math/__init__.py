"""Checks mathematical answers, in processes that can be killed."""

from rlvr.rewards.math.answer import math_answer, shared_verifier
from rlvr.rewards.math.verifier import MathVerifier

__all__ = ["MathVerifier", "math_answer", "shared_verifier"]
