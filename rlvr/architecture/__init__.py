"""What a model is made of, read from its config alone: sizes, costs and memory without loading a weight.

Knows nothing else of rlvr, and neither torch nor transformers.
"""
