"""Generators: continue token ids, and tell which policy version sampled each of them."""
