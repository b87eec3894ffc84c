"""The way of a policy version from learner to generators.

`update` has the types, `transport` writes, reads and sums them, `folder` is their place on this node.
"""
