"""Table of the supported encoder families, one row each.

A family is what transformers calls `model_type` in config.json. Code that handles several families
asks the row instead of comparing names, so that a family which differs only in these facts is a new
row. A family whose attention is new also needs one pass (`edgedistil/export/passes/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgedistil.core.family_info import (
    BERT_ATTENTION,
    BERT_HEAD,
    ConfigKeys,
    FamilyInfo,
    MlmHead,
    ModuleNames,
)

# The first release whose RotaryEmbedding runs on a CPU.
_ROTARY_RUNTIME = (1, 17)
_LM_HEAD = MlmHead(
    dense="lm_head.dense",
    norm="lm_head.layer_norm",
    projection="lm_head.decoder",
    activation="gelu",
)
_BERT_SIZES: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def _roberta(model_type: str, class_prefix: str, tokenizer: str, vocabulary: int) -> FamilyInfo:
    """Row of a family with RoBERTa's modules."""
    return FamilyInfo(
        model_type=model_type,
        class_prefix=class_prefix,
        module_prefix="roberta",
        tokenizer_class=tokenizer,
        default_tokenizer=tokenizer,
        defaults={**_BERT_SIZES, "vocab_size": vocabulary, "pad_token_id": 1},
        mlm_head=_LM_HEAD,
        pad_counts_positions=True,
        missing_heads=("ForPreTraining",),
    )


FAMILIES: dict[str, FamilyInfo] = {
    row.model_type: row
    for row in (
        FamilyInfo(
            model_type="bert",
            class_prefix="Bert",
            module_prefix="bert",
            tokenizer_class="BertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults=_BERT_SIZES,
            has_trained_models=True,
        ),
        FamilyInfo(
            model_type="distilbert",
            class_prefix="DistilBert",
            module_prefix="distilbert",
            tokenizer_class="DistilBertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults={
                "vocab_size": 30522,
                "dim": 768,
                "n_layers": 6,
                "n_heads": 12,
                "hidden_dim": 3072,
                "activation": "gelu",
                "max_position_embeddings": 512,
                "pad_token_id": 0,
            },
            token_types=False,
            keys=ConfigKeys(
                layers="n_layers",
                hidden="dim",
                heads="n_heads",
                intermediate="hidden_dim",
                activation="activation",
            ),
            names=ModuleNames(
                output="transformer",
                layers="transformer.layer",
                query="attention.q_lin",
                attention=(
                    "attention.q_lin",
                    "attention.k_lin",
                    "attention.v_lin",
                    "attention.out_lin",
                ),
                up="ffn.lin1",
                blocks=(("attention", "sa_layer_norm"), ("feed-forward", "output_layer_norm")),
            ),
            mlm_head=MlmHead(
                dense="vocab_transform", norm="vocab_layer_norm", projection="vocab_projector"
            ),
            has_trained_models=True,
            missing_heads=("ForPreTraining",),
        ),
        _roberta("roberta", "Roberta", "RobertaTokenizer", 50265),
        _roberta("xlm-roberta", "XLMRoberta", "XLMRobertaTokenizer", 30522),
        _roberta("camembert", "Camembert", "CamembertTokenizer", 30522),
        FamilyInfo(
            model_type="electra",
            class_prefix="Electra",
            module_prefix="electra",
            tokenizer_class="ElectraTokenizer",
            default_tokenizer="BertTokenizer",
            defaults={
                **_BERT_SIZES,
                "embedding_size": 128,
                "hidden_size": 256,
                "num_attention_heads": 4,
                "intermediate_size": 1024,
            },
            names=ModuleNames(attention=BERT_ATTENTION, embedding_projection="embeddings_project"),
            mlm_head=MlmHead(
                dense="generator_predictions.dense",
                norm="generator_predictions.LayerNorm",
                projection="generator_lm_head",
                activation="gelu",
            ),
            # It holds the discriminator's head, which finds replaced tokens.
            pretraining_has_mlm=False,
        ),
        FamilyInfo(
            model_type="albert",
            class_prefix="Albert",
            module_prefix="albert",
            tokenizer_class="AlbertTokenizer",
            default_tokenizer="AlbertTokenizer",
            defaults={
                **_BERT_SIZES,
                "vocab_size": 30000,
                "embedding_size": 128,
                "hidden_size": 4096,
                "num_attention_heads": 64,
                "intermediate_size": 16384,
                "hidden_act": "gelu_new",
                "num_hidden_groups": 1,
            },
            names=ModuleNames(
                layers="encoder.albert_layer_groups.0.albert_layers",
                query="attention.query",
                up="ffn",
                embedding_projection="encoder.embedding_hidden_mapping_in",
                blocks=(
                    ("attention", "attention.LayerNorm"),
                    ("feed-forward", "full_layer_layer_norm"),
                ),
            ),
            mlm_head=MlmHead(
                dense="predictions.dense",
                norm="predictions.LayerNorm",
                projection="predictions.decoder",
            ),
            shares_layers=True,
            options={"inner_group_num": (1,)},
        ),
        FamilyInfo(
            model_type="mpnet",
            class_prefix="MPNet",
            module_prefix="mpnet",
            tokenizer_class="MPNetTokenizer",
            default_tokenizer="MPNetTokenizer",
            defaults={
                **{key: value for key, value in _BERT_SIZES.items() if key != "type_vocab_size"},
                "vocab_size": 30527,
                "pad_token_id": 1,
            },
            token_types=False,
            names=ModuleNames(
                query="attention.attn.q",
                blocks=(
                    ("attention", "attention.LayerNorm"),
                    ("feed-forward", "output.LayerNorm"),
                ),
            ),
            # transformers has no other number of buckets in its forward pass.
            options={"relative_attention_num_buckets": (32,)},
            mlm_head=_LM_HEAD,
            positions="relative-bias",
            pad_counts_positions=True,
            # transformers counts from 1 whatever config.json says.
            position_pad=1,
            missing_heads=("ForPreTraining",),
        ),
        FamilyInfo(
            model_type="ernie",
            class_prefix="Ernie",
            module_prefix="ernie",
            tokenizer_class="BertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults=_BERT_SIZES,
        ),
        FamilyInfo(
            model_type="mobilebert",
            class_prefix="MobileBert",
            module_prefix="mobilebert",
            tokenizer_class="MobileBertTokenizer",
            default_tokenizer="MobileBertTokenizer",
            defaults={
                **_BERT_SIZES,
                "embedding_size": 128,
                "hidden_size": 512,
                "num_hidden_layers": 24,
                "num_attention_heads": 4,
                "intermediate_size": 512,
                "hidden_act": "relu",
            },
            names=ModuleNames(
                query=None,
                up=None,
                # Inside a layer the states are narrower.
                blocks=(("attention and feed-forward", "output.bottleneck.LayerNorm"),),
            ),
            # Its projection is of two matrices, next to each other.
            mlm_head=replace(BERT_HEAD, wide="cls.predictions.dense"),
            mixes_neighbours=True,
            norm_kind="affine",
            residual_norms=0,
            options={"normalization_type": ("no_norm",)},
        ),
        FamilyInfo(
            model_type="modernbert",
            class_prefix="ModernBert",
            masks_queries=True,
            module_prefix="model",
            tokenizer_class="PreTrainedTokenizerFast",
            default_tokenizer="PreTrainedTokenizerFast",
            defaults={
                "vocab_size": 50368,
                "hidden_size": 768,
                "num_hidden_layers": 22,
                "num_attention_heads": 12,
                "intermediate_size": 1152,
                "hidden_activation": "gelu",
                "max_position_embeddings": 8192,
                "pad_token_id": 50283,
            },
            token_types=False,
            keys=ConfigKeys(activation="hidden_activation"),
            names=ModuleNames(
                output="final_norm",
                layers="layers",
                word_embedding="embeddings.tok_embeddings",
                position_embedding=None,
                query=None,
                up=None,
                # The states after attention are the output of no module.
                blocks=(("attention and feed-forward", ""),),
            ),
            mlm_head=MlmHead(
                dense="head.dense",
                norm="head.norm",
                projection="decoder",
                activation_key="classifier_activation",
            ),
            positions="rotary",
            min_runtime=_ROTARY_RUNTIME,
            norm_place="pre",
            residual_norms=0,
            gated=True,
            missing_heads=("ForPreTraining",),
        ),
        FamilyInfo(
            model_type="nomic_bert",
            class_prefix="NomicBert",
            module_prefix="nomic_bert",
            tokenizer_class="BertTokenizer",
            default_tokenizer="BertTokenizer",
            defaults={
                **_BERT_SIZES,
                "vocab_size": 30528,
                "hidden_act": "silu",
                "max_position_embeddings": 2048,
            },
            names=ModuleNames(
                output="layers",
                layers="layers",
                position_embedding=None,
                query="self_attn.q_proj",
                up="mlp.gate_proj",
                blocks=(
                    ("attention", "post_attention_layernorm"),
                    ("feed-forward", "post_mlp_layernorm"),
                ),
            ),
            mlm_head=MlmHead(
                dense="cls.predictions.transform.dense",
                norm="cls.predictions.transform.layer_norm",
                projection="cls.predictions.decoder",
            ),
            positions="rotary",
            min_runtime=_ROTARY_RUNTIME,
            gated=True,
            in_transformers_4=False,
            missing_heads=("ForPreTraining", "ForQuestionAnswering", "ForMultipleChoice"),
        ),
        FamilyInfo(
            model_type="eurobert",
            class_prefix="EuroBert",
            module_prefix="model",
            tokenizer_class="PreTrainedTokenizerFast",
            default_tokenizer="PreTrainedTokenizerFast",
            defaults={
                "vocab_size": 128256,
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 3072,
                "hidden_act": "silu",
                "max_position_embeddings": 8192,
                "pad_token_id": 128001,
            },
            token_types=False,
            names=ModuleNames(
                output="norm",
                layers="layers",
                word_embedding="embed_tokens",
                position_embedding=None,
                # A head's width is a setting of its own.
                query=None,
                up="mlp.gate_proj",
                embeddings="embed_tokens",
                # The states after attention are the output of no module.
                blocks=(("attention and feed-forward", ""),),
            ),
            mlm_head=MlmHead(dense=None, norm=None, projection="lm_head"),
            positions="rotary",
            min_runtime=_ROTARY_RUNTIME,
            norm_place="pre",
            norm_kind="rms",
            residual_norms=0,
            gated=True,
            in_transformers_4=False,
            missing_heads=("ForPreTraining", "ForQuestionAnswering", "ForMultipleChoice"),
        ),
        FamilyInfo(
            model_type="deberta",
            class_prefix="Deberta",
            masks_queries=True,
            module_prefix="deberta",
            tokenizer_class="DebertaTokenizer",
            default_tokenizer="DebertaTokenizer",
            defaults={**_BERT_SIZES, "vocab_size": 50265, "type_vocab_size": 0},
            names=ModuleNames(
                output="encoder.layer",
                query=None,
            ),
            positions="disentangled",
            options={"talking_head": (False,)},
            missing_heads=("ForPreTraining", "ForMultipleChoice"),
        ),
        FamilyInfo(
            model_type="deberta-v2",
            class_prefix="DebertaV2",
            masks_queries=True,
            module_prefix="deberta",
            tokenizer_class="DebertaV2Tokenizer",
            default_tokenizer="DebertaV2Tokenizer",
            defaults={
                **_BERT_SIZES,
                "vocab_size": 128100,
                "hidden_size": 1536,
                "num_hidden_layers": 24,
                "num_attention_heads": 24,
                "intermediate_size": 6144,
                "type_vocab_size": 0,
            },
            names=ModuleNames(
                output="encoder.layer",
                query="attention.self.query_proj",
            ),
            positions="disentangled",
            # The layer of convolutions of v2-xlarge.
            options={"conv_kernel_size": (0,)},
            missing_heads=("ForPreTraining",),
        ),
    )
}
