from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.attention import fuse_attention

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run


# L length, B batch; 3 heads of 2, so D = 6. The layout is sequence-first already.
LAYER = """
  q4_{layer} = Reshape(q, split)
  k4_{layer} = Reshape(k, split)
  v4_{layer} = Reshape(v, split)
  qh_{layer} = Transpose<perm = [0, 2, 1, 3]>(q4_{layer})
  kh_{layer} = Transpose<perm = [0, 2, 1, 3]>(k4_{layer})
  vh_{layer} = Transpose<perm = [0, 2, 1, 3]>(v4_{layer})
  ["layer.{layer}/attention/Attention"]
  context_{layer} = edgedistil.Attention<heads = 3, scale = 0.5>(
    qh_{layer}, kh_{layer}, vh_{layer}, attention_mask
  )
  y_{layer} = Reshape(context_{layer}, merge)
"""


def attention_graph(layers: int) -> str:
    """A graph in which every layer attends to the same query, key and value."""
    outputs = ", ".join(f"float[L, B, 6] y_{layer}" for layer in range(layers))
    nodes = "".join(LAYER.format(layer=layer) for layer in range(layers))
    return f"""
attention (float[L, B, 6] q, float[L, B, 6] k, float[L, B, 6] v, int64[B, L] attention_mask)
  => ({outputs})
<int64[4] split = {{0, 0, 3, 2}}, int64[3] merge = {{0, 0, -1}}>
{{
{nodes}
}}
"""


def plain_attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    mask_BL: NDArray[np.int64],
    *,
    heads: int,
    scale: float,
) -> NDArray[np.float32]:
    """softmax(q kᵀ · scale + mask) v of (L, B, D) inputs, head by head."""
    context = np.zeros_like(q)
    size = q.shape[-1] // heads
    for b in range(q.shape[1]):
        for h in range(heads):
            columns = slice(h * size, (h + 1) * size)
            scores_LL = q[:, b, columns] @ k[:, b, columns].T * scale
            scores_LL[:, mask_BL[b] == 0] = -np.inf
            weights_LL = np.exp(scores_LL - scores_LL.max(axis=-1, keepdims=True))
            weights_LL /= weights_LL.sum(axis=-1, keepdims=True)
            context[:, b, columns] = weights_LL @ v[:, b, columns]
    return context


def test_the_lowered_attention_computes_the_formula(parse: Parse, run: Run) -> None:
    model = parse(attention_graph(layers=1))
    assert fuse_attention(model, heads=3) == 1
    drop_unused(model)
    q, k, v = np.random.default_rng(3).standard_normal((3, 7, 5, 6)).astype(np.float32)
    mask_BL = np.ones((5, 7), np.int64)
    mask_BL[1, 4:] = 0
    expected = plain_attention(q, k, v, mask_BL, heads=3, scale=0.5)
    np.testing.assert_allclose(
        run(model, q=q, k=k, v=v, attention_mask=mask_BL), expected, atol=1e-6
    )


def test_only_the_context_is_transposed_and_the_domain_is_gone(parse: Parse) -> None:
    model = parse(attention_graph(layers=1))
    fuse_attention(model, heads=3)
    drop_unused(model)
    operators = Counter(node.op_type for node in model.graph)
    assert operators["Transpose"] == 1
    assert (operators["FusedMatMul"], operators["Softmax"]) == (2, 1)
    assert "edgedistil" not in model.graph.opset_imports
    shapes = [node.inputs[1] for node in model.graph if node.op_type == "Reshape"]
    assert all(shape is not None and shape.is_initializer() for shape in shapes)


def test_two_attentions_share_one_mask(parse: Parse) -> None:
    model = parse(attention_graph(layers=2))
    assert fuse_attention(model, heads=3) == 2
    drop_unused(model)
    operators = Counter(node.op_type for node in model.graph)
    assert (operators["Softmax"], operators["Sub"], operators["Unsqueeze"]) == (2, 1, 1)


def test_an_attention_whose_query_is_not_split_into_heads_is_left_alone(
    parse: Parse, nodes: Nodes
) -> None:
    text = attention_graph(layers=1)
    model = parse(text.replace("qh_0 = Transpose<perm = [0, 2, 1, 3]>", "qh_0 = Identity"))
    before = nodes(model)
    assert fuse_attention(model, heads=3) == 0
    assert nodes(model) == before
