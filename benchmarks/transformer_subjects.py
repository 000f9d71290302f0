"""Transformer models of published measurements, from their public configurations typed in: nothing is downloaded.

Named in trace requests as `transformer_subjects:gpt2`; called by the tracer, without arguments, where `transformers` is
installed. They are built on the meta device, since a trace needs shapes and not values.
"""

from __future__ import annotations

from typing import Any

import torch


def distilgpt2() -> Any:  # noqa: ANN401 - transformers is no dependency, so its types are unknown here
    """DistilGPT-2: GPT-2 with half its layers."""
    return _build("AutoModelForCausalLM", "GPT2Config", n_layer=6)


def gpt2() -> Any:  # noqa: ANN401 - as above
    """GPT-2 with 124 million parameters: the defaults of its configuration."""
    return _build("AutoModelForCausalLM", "GPT2Config")


def opt_125m() -> Any:  # noqa: ANN401 - as above
    """OPT with 125 million parameters."""
    return _build(
        "AutoModelForCausalLM",
        "OPTConfig",
        vocab_size=50272,
        hidden_size=768,
        num_hidden_layers=12,
        ffn_dim=3072,
        num_attention_heads=12,
        max_position_embeddings=2048,
        word_embed_proj_dim=768,
    )


def t5_small() -> Any:  # noqa: ANN401 - as above
    """T5 with 60 million parameters: the defaults of its configuration, as published with 32,128 words."""
    return _build("AutoModelForSeq2SeqLM", "T5Config", decoder_start_token_id=0)


def t5_base() -> Any:  # noqa: ANN401 - as above
    """T5 with 223 million parameters."""
    return _build(
        "AutoModelForSeq2SeqLM",
        "T5Config",
        d_model=768,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
        decoder_start_token_id=0,
    )


def qwen3_4b() -> Any:  # noqa: ANN401 - as above
    """Qwen3 with 4 billion parameters, input and output embedding tied."""
    return _build(
        "AutoModelForCausalLM",
        "Qwen3Config",
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )


def _build(kind: str, configuration: str, **values: object) -> Any:  # noqa: ANN401 - as above
    import transformers  # type: ignore[import-not-found,unused-ignore] # installed for tracing only

    with torch.device("meta"):
        return getattr(transformers, kind).from_config(getattr(transformers, configuration)(**values))
