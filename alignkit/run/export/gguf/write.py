"""Writes a GGUF file, tensor by tensor."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alignkit.errors import ExportError
from alignkit.run.export.gguf.families import family_of, stored, write_settings
from alignkit.run.export.gguf.vocabulary import write_vocabulary

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
LARGEST_HALF = 65504.0


def write_gguf(model: Any, tokenizer: Any, file: Path, dtype: str, *, name: str) -> None:
    """Writes model and tokenizer as one file. dtype: a key of TYPES. Raises ExportError for what it cannot hold."""
    from gguf import GGUFWriter, LlamaFileType

    writer = GGUFWriter(file, family_of(model).arch)
    writer.add_name(name)
    kinds = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(LlamaFileType[kinds[TYPES[dtype]]])
    writer.add_quantization_version(2)
    write_settings(writer, model)
    write_vocabulary(writer, tokenizer, model)
    try:
        for own, weight in stored(model):
            shape, number, kind = layout(tuple(weight.shape), dtype)
            writer.add_tensor_info(own, shape, np.dtype(number), prod(shape) * np.dtype(number).itemsize, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for own, weight in stored(model):
            writer.write_tensor_data(packed(own, weight, dtype))
    finally:
        writer.close()


def packed(name: str, weight: Tensor, dtype: str) -> np.ndarray:
    """The bytes of a weight. Raises ExportError for numbers beyond float16."""
    from gguf import GGMLQuantizationType, quantize

    kind = layout(tuple(weight.shape), dtype)[2]
    if kind == GGMLQuantizationType.F16 and float(weight.abs().max()) > LARGEST_HALF:
        raise ExportError(
            f"gguf: {name} has numbers that float16 cannot hold (beyond {LARGEST_HALF:g}); use --type bf16"
        )
    return quantize(weight.numpy(), kind)


def layout(shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], type[np.generic], Any]:
    """(shape of what is stored, its numpy type, llama.cpp's type) of a weight: vectors are float32, and rows that are
    no multiple of a block of Q8_0 float16."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    name = "F32" if len(shape) < 2 else "F16" if dtype == "q8_0" and shape[-1] % 32 else TYPES[dtype]
    kind = GGMLQuantizationType[name]
    if name in ("F32", "F16"):
        return shape, np.float32 if name == "F32" else np.float16, kind
    return quant_shape_to_byte_shape(shape, kind), np.uint8, kind
