"""Runs the benchmark in `math_verdicts.py`.

A file of this name hides Python's own `math` from the scripts beside it: so it moves its folder to the end of the path,
and where it was imported by mistake it gives its place to the real one.
"""

import sys
from importlib import import_module

if __name__ in ("__main__", "math"):
    sys.path.append(sys.path.pop(0))
if __name__ == "__main__":
    import_module("math_verdicts").main()
elif __name__ == "math":
    del sys.modules["math"]
    import_module("math")
