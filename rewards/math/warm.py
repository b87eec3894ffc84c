"""Imported by the process that workers are forked from: loads computer algebra and fills the parser's tables.

Each worker inherits them, so that the first answer it judges takes no longer than the next.
"""

from rlvr.rewards.math.symbolic import same_as_any

for _reference, _answer in [
    (r"\ln(xy)", r"\ln x+\ln y"),
    (r"(-\infty,1)\cup(1,2)", r"(-\infty,2)\cup(3,4)"),
    (r"3+4i", r"(2+i)^2"),
    (r"\sum_{k=0}^{n-1}2^k", r"2^n-1"),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2i"),
]:
    same_as_any([_reference], _answer, 0.0)
