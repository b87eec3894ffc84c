"""Errors that a user can mend: their message is enough, a traceback would only hide it."""

from __future__ import annotations

from rlvr.architecture.catalog import ModelNotFound
from rlvr.architecture.facts import UnknownArchitecture
from rlvr.checkpoint import CheckpointError
from rlvr.config_loading import ConfigError
from rlvr.data import DataError
from rlvr.export import ExportError
from rlvr.learn.own import AlgorithmError
from rlvr.placement import ClusterError
from rlvr.plan.planner import PlanError
from rlvr.plugins import CommandError, PluginError
from rlvr.prepare import PreparationError
from rlvr.rollout.rollouts import RolloutError
from rlvr.rollout.scoring import RewardError
from rlvr.run_folder import RunFolderError
from rlvr.training import TrainingStopped
from rlvr.watchdog import Stalled

USER_ERRORS = (
    AlgorithmError,
    CheckpointError,
    ClusterError,
    CommandError,
    ConfigError,
    DataError,
    ExportError,
    ModelNotFound,
    PlanError,
    PluginError,
    PreparationError,
    RewardError,
    RolloutError,
    RunFolderError,
    Stalled,
    TrainingStopped,
    UnknownArchitecture,
)
