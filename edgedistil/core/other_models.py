"""Kinds of models that are not supported, by config.json, and the nearest way out of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistil.core.echo import echo

_WRITER_HINT = (
    "for labels, spans or vectors choose an encoder; a model that writes text needs another "
    "exporter, such as optimum or onnxruntime-genai"
)
CODE_HINT = (
    "code from a model folder is never run: choose a version of the model that transformers has a "
    "class for, or a model of a supported family"
)
_FAMILY_HINT = "choose a model of a supported family, with weights in safetensors"
# The half of a model of another kind that reads text.
_OTHER_ENCODERS = ("T5EncoderModel", "CLIPTextModel", "CLIPTextModelWithProjection")
# Parts of class names, what such a model is, and what its user can do instead.
_OTHER_KINDS = (
    (
        ("ForConditionalGeneration", "EncoderDecoder", "Seq2Seq", "T5", "Bart", "Pegasus"),
        "an encoder-decoder",
        _WRITER_HINT,
    ),
    (
        ("ForCausalLM", "LMHeadModel", "GPT", "Llama", "Mistral", "Qwen", "Gemma", "Phi", "Opt"),
        "a decoder",
        _WRITER_HINT,
    ),
    (
        ("Image", "Vision", "ViT", "CLIP", "Detection", "Segmentation", "Audio", "Speech", "CTC"),
        "a model of images or sound",
        "this tool is for encoders of text",
    ),
)


def what_it_is(config: Mapping[str, Any], architectures: Sequence[str]) -> tuple[str, str]:
    """Returns the kind of an unsupported model, and the nearest way out."""
    code = own_code(config)
    if code:
        return f"a model with code of its own (auto_map: {echo(', '.join(code))})", CODE_HINT
    # A folder without class names has its type.
    names = " ".join(architectures) or str(config.get("model_type", "")).title()
    if names.endswith(_OTHER_ENCODERS):
        return "an encoder", _FAMILY_HINT
    for parts, what, hint in _OTHER_KINDS:
        if any(part.lower() in names.lower() for part in parts):
            return what, hint
    return "a model", _FAMILY_HINT


def own_code(config: Mapping[str, Any]) -> list[str]:
    """Classes in code of the model's own that config.json names, sorted."""
    code = config.get("auto_map")
    return sorted({str(name) for name in code.values()}) if isinstance(code, dict) else []
