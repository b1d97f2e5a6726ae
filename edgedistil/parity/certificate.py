"""Certificate of an artefact's weights and constants, which needs no probes.

Every initializer that the outputs depend on is compared, value by value, with the formula that the
export recorded for it, evaluated on the source's tensors:

- a float32 weight is equal bit for bit, a float16 weight within half a unit in the last place;
- an integer q with the scale s of a weight w keeps |w - s · q| <= s / 2, and s is what the method
  defines: max |w| / 127, or the largest value of a block / -8;
- an epsilon, a factor or a mask's value is the config's.

Every float attribute of a node is covered as well, every parameter that the task uses must occur,
and nothing may lack a formula. Probes hold a few percent of a vocabulary; this sees all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from edgedistil.core.errors import ModelError
from edgedistil.core.export_records import CertificateRecord
from edgedistil.parity.formula import (
    METADATA_KEY,
    Provenance,
    WeightSource,
    evaluate,
    parse,
    source_names,
)
from edgedistil.parity.onnx_file import read_onnx_model
from edgedistil.parity.tensor_rules import ROUNDING, check_tensor

Array = NDArray[Any]

# Attributes that scale a product, and do nothing at 1.
_FACTORS = {"alpha", "beta"}
# A record with thousands of problems helps no more than one with the first of them.
_LISTED_PROBLEMS = 12
# Operators that compute something else than the exact Gelu in its place.
_NOT_EXACT_GELU = frozenset({"FastGelu", "QuickGelu"})


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    initializers: int = 0
    attributes: int = 0
    sources: set[str] = field(default_factory=set)


def certify(model_file: Path, source: WeightSource) -> CertificateRecord:
    """Compares all weights and constants of an artefact with the model it was exported from.

    Args:
        model_file: The graph, with its external data in the same folder.
        source: Tensors and settings of the model.
    Returns:
        What was compared, and each problem.
    Raises:
        ModelError: The file is not a readable graph.
    """
    model = read_onnx_model(model_file)
    findings = _Findings()
    provenance = _read_provenance(model, findings)
    nodes = _nodes_before_outputs(model.graph)
    if provenance is not None:
        _certify_initializers(model.graph, nodes, model_file.parent, provenance, source, findings)
        _certify_attributes(nodes, provenance, source, findings)
        _certify_activations(nodes, source, findings)
        for name in sorted(source.used - findings.sources):
            findings.problems.append(f"the outputs do not depend on the model's {name}")
    return CertificateRecord(
        initializers=findings.initializers,
        attributes=findings.attributes,
        tensors=len(findings.sources),
        problems=_shortened(findings.problems),
    )


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= _LISTED_PROBLEMS:
        return problems
    more = len(problems) - _LISTED_PROBLEMS
    return [*problems[:_LISTED_PROBLEMS], f"and {more} more"]


def _read_provenance(model: Any, findings: _Findings) -> Provenance | None:
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in entries:
        findings.problems.append("the file does not say which weights of the model its own are")
        return None
    try:
        return Provenance.of_json(entries[METADATA_KEY])
    except (ValueError, KeyError, TypeError) as error:
        findings.problems.append(f"the file's record of its weights cannot be read: {error}")
        return None


def _nodes_before_outputs(graph: Any) -> list[Any]:
    """Nodes that the outputs depend on, in the order of the graph; those of subgraphs, too."""
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    pending = [producers[output.name] for output in graph.output if output.name in producers]
    needed: set[int] = set()
    while pending:
        index = pending.pop()
        if index in needed:
            continue
        needed.add(index)
        # A subgraph may read any value of the graph.
        for node in _with_nested(graph.node[index]):
            pending += [producers[name] for name in node.input if name in producers]
    return [node for index in sorted(needed) for node in _with_nested(graph.node[index])]


def _with_nested(node: Any) -> Iterator[Any]:
    """Yields a node and the nodes of its subgraphs."""
    yield node
    for attribute in node.attribute:
        for subgraph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            for nested in subgraph.node:
                yield from _with_nested(nested)


# --- initializers --------------------------------------------------------------------------------


def _certify_initializers(
    graph: Any,
    nodes: list[Any],
    folder: Path,
    provenance: Provenance,
    source: WeightSource,
    findings: _Findings,
) -> None:
    read = {name for node in nodes for name in node.input}
    for name, array in _initializers(graph, folder):
        # A weight that no output depends on is not one of the model's.
        if name not in read:
            findings.problems.append(f"no output depends on {name}")
            continue
        formula = provenance.initializers.get(name)
        if formula is None:
            findings.problems.append(f"{name} has no formula: the export does not say what it is")
            continue
        findings.initializers += 1
        try:
            call = parse(formula)
            findings.sources |= source_names(call)
            problem = check_tensor(array, call, source)
        except ModelError as error:
            problem = error.message
        if problem:
            findings.problems.append(f"{name}: {problem}")


def _initializers(graph: Any, folder: Path) -> Iterator[tuple[str, Array]]:
    """Yields name and values of each initializer; one at a time is in memory."""
    for tensor in graph.initializer:
        loaded = onnx.TensorProto()
        loaded.CopyFrom(tensor)
        if loaded.data_location == onnx.TensorProto.EXTERNAL:
            external_data_helper.load_external_data_for_tensor(loaded, str(folder))
        yield tensor.name, numpy_helper.to_array(loaded)
    # Larger constants, and those that another program wrote, may be nodes.
    for node in graph.node:
        if node.op_type == "Constant":
            yield node.output[0], numpy_helper.to_array(node.attribute[0].t)


# --- attributes ----------------------------------------------------------------------------------


def _certify_attributes(
    nodes: list[Any], provenance: Provenance, source: WeightSource, findings: _Findings
) -> None:
    recorded = dict(provenance.attributes)
    for node in nodes:
        present = {attribute.name: attribute for attribute in node.attribute}
        for name in sorted(present.keys() | _FACTORS):
            formula = recorded.pop(f"{node.name}:{name}", None)
            value = _float_of(present.get(name))
            if formula is None and (value is None or _is_neutral(name, value)):
                continue
            findings.attributes += 1
            problem = _attribute_problem(value, formula, source)
            if problem:
                findings.problems.append(f"{name} of {node.name}: {problem}")
    # A node that was removed took its constant along.
    findings.problems += [f"no output depends on {name}" for name in sorted(recorded)]


def _float_of(attribute: Any) -> float | None:
    """Value of a float attribute; None for one of another type, 1 for an absent factor."""
    if attribute is None:
        return 1.0
    return float(attribute.f) if attribute.type == onnx.AttributeProto.FLOAT else None


def _is_neutral(name: str, value: float) -> bool:
    return name in _FACTORS and value == 1.0


def _attribute_problem(value: float | None, formula: str | None, source: WeightSource) -> str:
    if formula is None:
        return f"{value:.6g} has no formula: the export does not say what it is"
    try:
        expected = float(evaluate(parse(formula), source))
    except (ModelError, TypeError) as error:
        return str(error)
    if value is not None and np.isclose(value, expected, rtol=ROUNDING, atol=0):
        return ""
    return f"got {value}, expected {expected:.6g}"


def _certify_activations(nodes: list[Any], source: WeightSource, findings: _Findings) -> None:
    """Checks that the exact Gelu of a config is not one of its approximations."""
    if source.activation != "gelu":
        return
    for node in nodes:
        is_approximate = any(attribute.name == "approximate" for attribute in node.attribute)
        if node.op_type in _NOT_EXACT_GELU or is_approximate:
            findings.problems.append(
                f"{node.name} is a {node.op_type}, expected the config's exact gelu"
            )
