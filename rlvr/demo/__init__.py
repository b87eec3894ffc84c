"""The embedded default: a family of small problems and a tiny base model on which RL visibly works."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the shipped base model, in Hugging Face form: a config's `model` on any machine."""
