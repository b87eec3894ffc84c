"""The embedded default: two subjects of small problems, and tiny base models on which RL visibly works."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the shipped base model, in Hugging Face form: a config's `model` on any machine."""

BASE_OF_BOTH = Path(__file__).parent / "base_both"
"""The same for a base model that writes small functions as well."""
