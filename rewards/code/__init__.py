"""Whether programs that a model wrote do what they should: run in the sandbox, judged outside of it."""

from rlvr.rewards.code.reward import code, judge_code
from rlvr.rewards.code.running import CodeNotRun, SuiteUnfit
from rlvr.rewards.code.suite import SuiteError, read_suite
from rlvr.rewards.code.verdict import Verdict

__all__ = ["CodeNotRun", "SuiteError", "SuiteUnfit", "Verdict", "code", "judge_code", "read_suite"]
