"""Which generator a config asks for, and what its process needs."""

from __future__ import annotations

from importlib.util import find_spec

from rlvr.config import Config, Engine
from rlvr.generate.protocol import Generator
from rlvr.generate.settings import engine_settings


class EngineMissing(RuntimeError):
    """The config names an engine that is not installed."""


def make_generator(config: Config, name: str, model: str | None = None) -> Generator:
    """The generator of a config, not started. `name` ends in its number (`generator-0`); `model` is a folder or
    hub name, the policy's own if not given. Raises EngineMissing."""
    gpu = has_gpu()
    settings = engine_settings(config, name, model or config.model.name, gpu=gpu)
    if chosen_engine(config) is Engine.TRANSFORMERS:
        from rlvr.generate.transformers import TransformersGenerator

        return TransformersGenerator(settings, device="cuda" if gpu else "cpu")
    if gpu:
        from rlvr.generate.vllm_async import AsyncVLLM

        return AsyncVLLM(settings)
    from rlvr.generate.vllm_inprocess import InProcessVLLM

    return InProcessVLLM(settings)


def chosen_engine(config: Config) -> Engine:
    """The engine of a config, `auto` resolved. Looks whether vLLM is installed, without importing it."""
    installed = find_spec("vllm") is not None
    if config.generator.engine is Engine.AUTO:
        return Engine.VLLM if installed else Engine.TRANSFORMERS
    if config.generator.engine is Engine.VLLM and not installed:
        raise EngineMissing(
            "generator.engine=vllm, and vLLM is not installed: run `python -m rlvr.install_cpu_engine` on a machine "
            "without GPU, `pip install 'rlvr[gpu]'` on one with, or set generator.engine=transformers"
        )
    return config.generator.engine


def engine_environment(config: Config, *, gpu: bool) -> dict[str, str]:
    """Environment variables of a generator's process; Ray sets them by `runtime_env`."""
    if chosen_engine(config) is Engine.TRANSFORMERS:
        return {}
    from rlvr.generate import vllm_environment

    return vllm_environment.engine_environment(config.model.name, gpu=gpu)


def has_gpu() -> bool:
    """Whether this process sees a GPU."""
    import torch

    return torch.cuda.is_available()
