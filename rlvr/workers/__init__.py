"""Processes that can be killed, for functions that may hang or crash.

`pool` is what a caller has, `link` its side of the sockets, and `mother` the process that workers are forked from.
"""
