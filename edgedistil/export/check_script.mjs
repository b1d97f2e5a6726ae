// Checks an export folder in JavaScript: node check.mjs [PRECISION ...]
//
// Needs: npm install onnxruntime-node @huggingface/tokenizers@0.2.0
// Compares ids, types, offsets (of tokenizers that give them) and outputs with conformance.jsonl.
// Exit codes: 2 the folder is incomplete, 3 a string or a file differs.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const place = (name) => fileURLToPath(new URL(name, import.meta.url));
const readJson = (name) => JSON.parse(readFileSync(place(name), 'utf8'));

function fail(message, code = 3) {
  console.error(message);
  process.exit(code);
}

function requireFiles(digests) {
  for (const [name, expected] of Object.entries(digests)) {
    if (!existsSync(place(name))) fail(`${name} is missing: copy the folder with all its files`, 2);
    const digest = createHash('sha256').update(readFileSync(place(name))).digest('hex');
    if (digest !== expected) fail(`${name} was changed after the export: its sha256 differs`);
  }
}

const library = (name) =>
  import(name).catch((error) => fail(`npm install ${name}: cannot load it (${error.code})`, 2));

function compareTokens(encode, { texts, tokens: [ids, types, offsets] }) {
  const encoding = encode(...texts);
  const got = JSON.stringify([encoding.ids, encoding.types, encoding.offsets ?? offsets]);
  const expected = JSON.stringify([ids, types, offsets]);
  if (got === expected) return;
  fail(`${JSON.stringify(texts)}: ids, types, offsets are ${got}, expected ${expected}`);
}

async function compareOutputs(ort, session, row, precision, bounds) {
  const [ids, types] = row.tokens;
  const shape = [1, ids.length];
  const tensor = (list) => new ort.Tensor('int64', BigInt64Array.from(list, BigInt), shape);
  const feeds = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: types };
  const inputs = Object.fromEntries(session.inputNames.map((name) => [name, tensor(feeds[name])]));
  const outputs = await session.run(inputs);
  for (const [name, expected] of Object.entries(row.outputs[precision])) {
    const { data } = outputs[name];
    const step = (data.length - 1) / Math.max(1, expected.length - 1);
    // The last place as it is: a product is rounded.
    const at = (i) => (i + 1 === expected.length ? data.length - 1 : Math.floor(i * step));
    const largest = Math.max(...expected.map((value, i) => Math.abs(data[at(i)] - value)));
    if (largest <= bounds[name]) continue;
    const amount = largest.toPrecision(3);
    fail(`${JSON.stringify(row.texts)}: ${name} in ${precision} differs by ${amount}`);
  }
}

const lines = readFileSync(place('conformance.jsonl'), 'utf8').trim().split('\n');
const [head, ...rows] = lines.map((line) => JSON.parse(line));
requireFiles(head.files);
const { createTokenizer } = await import('./tokenizer.mjs');
const { Tokenizer } = await library('@huggingface/tokenizers');
const { tokenizer: rules } = readJson('contract.json');
const encode = createTokenizer(Tokenizer, readJson('tokenizer.json'), rules);
for (const row of rows) compareTokens(encode, row);
const ort = await library('onnxruntime-node');
const precisions = process.argv.slice(2);
for (const precision of precisions.length ? precisions : Object.keys(head.graphs)) {
  const advice = readJson('session.json').artefacts[head.graphs[precision]];
  const extra = {};
  for (const [key, value] of Object.entries(advice.config_entries)) {
    const [last, ...levels] = key.split('.').reverse();
    levels.reverse().reduce((level, part) => (level[part] ??= {}), extra)[last] = value;
  }
  const session = await ort.InferenceSession.create(place(head.graphs[precision]), { extra });
  for (const row of rows.filter((item) => item.outputs[precision])) {
    await compareOutputs(ort, session, row, precision, head.tolerances[precision]);
  }
}
console.log(`${rows.length} strings are as expected`);
