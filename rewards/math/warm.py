"""Imported by the process that workers are forked from: loads computer algebra and fills the parser's tables.

Each worker inherits them, so that the first answer it judges takes no longer than the next.
"""

from rlvr.rewards.math.symbolic import same_symbolically

for _reference, _answer in [
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"x^2+2x+1", r"(x+1)^2"),
    (r"2x+4y=3", r"y=-\frac{1}{2}x+\frac{3}{4}"),
    (r"\sin^2 x", r"1-\cos^2 x"),
]:
    same_symbolically(_reference, _answer, 0.0)
