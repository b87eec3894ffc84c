"""A checkpoint's policy as a folder that transformers, peft and vLLM load: `rlvr export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlvr.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from rlvr.config import Config, DType
from rlvr.config_loading import load_config
from rlvr.run_folder import RunFolder


class ExportError(ValueError):
    """What was named cannot be exported. The message says what to name instead."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the policy of a version, or its adapter alone."""

    folder: Path
    version: int
    adapter: bool


def export_policy(source: Path, out: Path, *, adapter: bool = False, dtype: DType | None = None) -> Exported:
    """Write the policy of `source`, a run's folder (its newest checkpoint) or one checkpoint of it, to `out`.

    In Hugging Face form with adapters merged, in `dtype` or, unset, in the one that the run's config names for
    generators or model, else float32; with `adapter` in peft's form and float32. On the processor, but for a base in
    4 bits, which a GPU widens. Raises ExportError.
    """
    checkpoint, run = _find(source)
    config = _for_one_process(load_config([str(run.config)], []), adapter)
    if adapter and config.model.lora.rank == 0:
        raise ExportError(f"--adapter: {run.path} trained all parameters (model.lora.rank=0); leave --adapter out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out}: is there already; name a new folder")

    from rlvr.learn.learner_state import load_network
    from rlvr.learn.model import PolicyModel, device_of
    from rlvr.learn.quantized import why_no_4_bits
    from rlvr.learn.ranks import ALONE
    from rlvr.prepare import load_tokenizer
    from rlvr.weights.transport import rounded, write_adapter

    if config.model.lora.quantize and (reason := why_no_4_bits(device_of(config.learner.device))):
        raise ExportError(
            f"{run.path} trained an adapter on a base in 4 bits, and merging needs that base: {reason}; or export the "
            "adapter alone with --adapter"
        )
    load_tokenizer(config.model.name)  # whose error says where the base model was looked for
    model = PolicyModel(config)
    version = load_network(checkpoint.learner, model, ALONE)
    if adapter:
        write_adapter(out, *model.adapter_weights())
    else:
        written = dtype or config.generator.dtype or model.dtype
        model.export(out, config.model.name, rounded(dict(model.weights()), written), written)
    return Exported(out, version, adapter)


def _find(source: Path) -> tuple[Checkpoint, RunFolder]:
    """The checkpoint, and the run that it is of."""
    if (source / "state.json").is_file():
        run = RunFolder(source.resolve().parent.parent)
        if run.config.is_file():
            return read_checkpoint(source), run
        raise ExportError(f"{source} is a checkpoint, but {run.config} is not there: it says what was trained")
    run = RunFolder(source)
    if not run.config.is_file():
        raise ExportError(f"{source} is neither a run's folder (with config.yaml) nor a checkpoint (with state.json)")
    checkpoint = latest_checkpoint(run.checkpoints)
    if checkpoint is None:
        raise ExportError(f"{run.checkpoints} holds no complete checkpoint")
    return checkpoint, run


def _for_one_process(config: Config, adapter: bool) -> Config:
    """The config for one process without a GPU. An adapter does not depend on how its base is held."""
    quantize = config.model.lora.quantize and not adapter
    device = "auto" if quantize else "cpu"
    learner = config.learner.model_copy(update={"device": device, "ranks": 1, "offload": False})
    lora = config.model.lora.model_copy(update={"quantize": quantize})
    model = config.model.model_copy(update={"lora": lora})
    return config.model_copy(update={"learner": learner, "model": model})
