// Compares this bundle in this browser with what its export gave: ids, types, offsets, outputs.
import { load } from './edgedistil.mjs';

// Place of a value in an output, of `count` places evenly spread over it.
function place(index, count, size) {
  // Rounded as numpy.linspace rounds: the step first, and the last place as it is.
  const step = (size - 1) / Math.max(1, count - 1);
  return index + 1 === count ? size - 1 : Math.floor(index * step);
}

function compareTokens(model, { texts, tokens: [ids, types, offsets] }) {
  const encoding = model.encode(...texts);
  const got = JSON.stringify([encoding.ids, encoding.types, encoding.offsets ?? offsets]);
  const expected = JSON.stringify([ids, types, offsets]);
  if (got === expected) return;
  throw new Error(`${JSON.stringify(texts)}: ids, types, offsets are ${got}, expected ${expected}`);
}

async function compareOutputs(model, row, expectedOutputs, bounds) {
  const outputs = await model.run({ ids: row.tokens[0], types: row.tokens[1] });
  for (const [name, expected] of Object.entries(expectedOutputs)) {
    const { data } = outputs[name];
    const differences = expected.map((value, index) =>
      Math.abs(data[place(index, expected.length, data.length)] - value),
    );
    const largest = Math.max(...differences);
    if (largest <= bounds[name]) continue;
    const amount = largest.toPrecision(3);
    const text = JSON.stringify(row.texts);
    throw new Error(`${text}: ${name} in ${model.precision} differs by ${amount}`);
  }
}

// Returns the number of strings that are as expected; throws at the first difference.
export async function check({ threads, progress = () => {} } = {}) {
  const model = await load({ threads });
  const response = await fetch(new URL('model/conformance.jsonl', import.meta.url));
  if (!response.ok) throw new Error('model/conformance.jsonl is missing');
  const lines = (await response.text()).trim().split('\n');
  const [head, ...rows] = lines.map((line) => JSON.parse(line));
  for (const row of rows) compareTokens(model, row);
  for (const [index, row] of rows.entries()) {
    progress(index, rows.length);
    const expected = row.outputs[model.precision];
    if (expected) await compareOutputs(model, row, expected, head.tolerances[model.precision]);
  }
  return { strings: rows.length, precision: model.precision, threads: model.threads };
}
