"""Runs untrusted programs. Imports nothing of rlvr. Nothing is here yet."""
