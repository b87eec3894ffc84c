"""The frozen base of adapters in 4 bits (QLoRA: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs").

Linear layers are held as bitsandbytes' NF4 with double quantization, half a byte a parameter, and are widened to the
compute format when they are used. Fused experts, embeddings and head stay as they are. What is published and exported
is the widened base plus the adapter: exactly the policy that was trained. Not measured: it needs a GPU.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig


def why_no_4_bits(device: torch.device) -> str | None:
    """What is missing for `model.lora.quantize`, and what to do."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "model.lora.quantize needs bitsandbytes: `pip install bitsandbytes`, or set model.lora.quantize=false"
    if device.type != "cuda":
        return "model.lora.quantize needs a GPU for the learner; set model.lora.quantize=false"
    return None


def in_4_bits(compute: torch.dtype) -> BitsAndBytesConfig:
    """How transformers quantizes while it loads."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def widened(tensor: Tensor) -> Tensor:
    """A tensor that is held in 4 bits, in float32; any other as it is."""
    if tensor.dtype is not torch.uint8:
        return tensor
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    assert isinstance(tensor, Params4bit), "no other weight is made of bytes"
    wide: Tensor = dequantize_4bit(tensor.data, tensor.quant_state)
    return wide.float()
