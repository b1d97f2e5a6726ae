// Runs the model of this folder in a browser: text in; vectors, labels, spans or words out.
//
//     import { load } from './edgedistil.mjs';
//     const model = await load();
//     const [vector] = await model.embed(['first text']);
import * as ort from './lib/ort.wasm.min.mjs';
import { Tokenizer } from './lib/tokenizers.min.mjs';
import { createTokenizer, withoutOffsets } from './model/tokenizer.mjs';

const PROMPTS = { query: ['query', 's2p_query'], document: ['document', 'passage', 'corpus'] };
// Tokens of an answer at most, as SQuAD's scores have it.
const ANSWER_TOKENS = 30;

// --- files --------------------------------------------------------------------------------------

async function fetchBytes(base, name, files) {
  if (location.protocol === 'file:') {
    throw new Error('a page from file:// may not read files: run python3 serve.py in this folder');
  }
  const response = await fetch(new URL(name, base));
  if (!response.ok) {
    throw new Error(`${name} is missing (${response.status}): copy the bundle with all its files`);
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  // Browsers offer digests only over https and from this machine.
  if (files?.[name] !== undefined && isSecureContext) {
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
    if (hex !== files[name]) throw new Error(`${name} was changed after the export was checked`);
  }
  return bytes;
}

async function fetchJson(base, name, files) {
  return JSON.parse(new TextDecoder().decode(await fetchBytes(base, name, files)));
}

// Turns {'a.b': '1'} into {a: {b: '1'}}, as onnxruntime-web expects the entries of a session.
function nested(entries) {
  const result = {};
  for (const [key, value] of Object.entries(entries)) {
    const [last, ...levels] = key.split('.').reverse();
    levels.reverse().reduce((level, part) => (level[part] ??= {}), result)[last] = value;
  }
  return result;
}

// Threads need memory that is shared, which a page has only with two headers: serve.py sends them.
export function usableThreads(wanted) {
  if (!crossOriginIsolated) return 1;
  return Math.max(1, Math.min(wanted || navigator.hardwareConcurrency, navigator.hardwareConcurrency));
}

// Loads the model. threads: of one call; 0: all cores; missing: as bundle.json says.
export async function load({ threads, base = new URL('./', import.meta.url) } = {}) {
  const bundle = await fetchJson(base, 'bundle.json');
  const read = (name) => fetchJson(base, `model/${name}`, bundle.files);
  const [contract, description] = await Promise.all([read('contract.json'), read('tokenizer.json')]);
  ort.env.wasm.numThreads = usableThreads(threads ?? bundle.threads);
  ort.env.wasm.wasmPaths = new URL('lib/', base).href;
  ort.env.logLevel = 'error';
  const [graph, ...external] = await Promise.all(
    bundle.graph.map((name) => fetchBytes(base, name, bundle.files)),
  );
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: ['wasm'],
    graphOptimizationLevel: bundle.session.graph_optimization_level,
    extra: nested(bundle.session.config_entries),
    externalData: external.map((data, index) => ({
      path: bundle.graph[index + 1].split('/').pop(),
      data,
    })),
  });
  return new Model(bundle, contract, description, session);
}

// --- scores -------------------------------------------------------------------------------------

function softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(scores, (score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function best(values) {
  return values.reduce((place, value, index) => (value > values[place] ? index : place), 0);
}

// --- the model ----------------------------------------------------------------------------------

class Model {
  constructor(bundle, contract, description, session) {
    this.task = contract.task;
    this.precision = bundle.precision;
    this.threads = ort.env.wasm.numThreads;
    this.contract = contract;
    this.session = session;
    this.encode = createTokenizer(Tokenizer, description, contract.tokenizer);
    this.noOffsets = withoutOffsets(description);
    this.tokens = new Map(Object.entries(description.model.vocab ?? {}).map(([a, b]) => [b, a]));
    if (Array.isArray(description.model.vocab)) {
      this.tokens = new Map(description.model.vocab.map(([token], id) => [id, token]));
    }
  }

  requireTask(task) {
    if (this.task !== task) throw new Error(`this model is for ${this.task}, not for ${task}`);
  }

  // Runs the graph on an encoding; returns output name → tensor.
  async run({ ids, types }) {
    const tensor = (list) =>
      new ort.Tensor('int64', BigInt64Array.from(list, BigInt), [1, ids.length]);
    const feeds = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: types };
    const inputs = this.contract.inputs.map(({ name }) => [name, tensor(feeds[name])]);
    return this.session.run(Object.fromEntries(inputs));
  }

  // Returns a vector for each text; pooling and normalization are in the graph.
  async embed(texts, { side = 'document' } = {}) {
    this.requireTask('feature-extraction');
    const vector = this.contract.sentence_vector;
    if (!this.contract.outputs.some(({ name }) => name === 'sentence_embedding')) {
      const reason = this.contract.unsupported ?? 'its source does not say how it pools';
      throw new Error(`the graph gives no sentence vectors: ${reason}`);
    }
    const name = PROMPTS[side].find((key) => key in vector.prompts) ?? vector.default_prompt;
    const prompt = vector.prompts[name] ?? '';
    const vectors = [];
    for (const text of texts) {
      const outputs = await this.run(this.encode(prompt + text));
      vectors.push(Float32Array.from(outputs.sentence_embedding.data));
    }
    return vectors;
  }

  // Returns labels with their probabilities, the most likely first; values of a regression.
  async classify(...texts) {
    this.requireTask('text-classification');
    const { data } = (await this.run(this.encode(...texts))).logits;
    let scores = Array.from(data);
    if (this.contract.problem_type === 'single_label_classification') scores = softmax(data);
    if (this.contract.problem_type === 'multi_label_classification') {
      scores = scores.map((score) => 1 / (1 + Math.exp(-score)));
    }
    const labelled = scores.map((score, index) => ({ label: this.contract.labels[index], score }));
    return labelled.sort((a, b) => b.score - a.score);
  }

  // Returns the parts of a text with one label; neighbouring tokens are joined, O is left out.
  async spans(text) {
    this.requireTask('token-classification');
    const encoding = this.encodePlaced(text);
    const { data, dims } = (await this.run(encoding)).logits;
    const count = dims[2];
    const groups = [];
    let last = null;
    encoding.ids.forEach((_, place) => {
      if (encoding.texts[place] === null) return;
      const scores = softmax(data.subarray(place * count, (place + 1) * count));
      const label = this.contract.labels[best(scores)];
      const kind = label.replace(/^[BI]-/, '');
      if (kind !== last || label.startsWith('B-')) groups.push({ label: kind, places: [], scores: [] });
      groups.at(-1).places.push(encoding.offsets[place]);
      groups.at(-1).scores.push(Math.max(...scores));
      last = kind;
    });
    const named = groups.filter(({ label }) => label !== 'O');
    return named.map(({ label, places, scores }) => ({
      label,
      score: scores.reduce((a, b) => a + b) / scores.length,
      ...cut(text, places[0][0], places.at(-1)[1]),
    }));
  }

  // Returns the most likely answer to a question, a part of the context.
  async answer(question, context) {
    this.requireTask('question-answering');
    const encoding = this.encodePlaced(question, context);
    if (encoding.ids.length >= this.contract.tokenizer.max_length) {
      const most = this.contract.tokenizer.max_length;
      throw new Error(`question and context have more than ${most} tokens: ask about a part of it`);
    }
    const outputs = await this.run(encoding);
    const cls = this.contract.tokenizer.special_tokens.cls?.id;
    const counts = encoding.ids.map((id, place) => encoding.texts[place] === 1 || id === cls);
    const [starts, ends] = ['start_logits', 'end_logits'].map((name) =>
      softmax(Array.from(outputs[name].data, (score, place) => (counts[place] ? score : -Infinity))),
    );
    let found = { score: 0 };
    const isContext = (place) => encoding.texts[place] === 1;
    for (let start = 0; start < starts.length; start += 1) {
      for (let end = start; end < Math.min(ends.length, start + ANSWER_TOKENS); end += 1) {
        const score = starts[start] * ends[end];
        if (isContext(start) && isContext(end) && score > found.score) found = { score, start, end };
      }
    }
    if (found.start === undefined) return null;
    const [first, last] = [encoding.offsets[found.start][0], encoding.offsets[found.end][1]];
    return { score: found.score, ...cut(context, first, last) };
  }

  // Returns for each mask in a text the most likely tokens.
  async fill(text, { count = 5 } = {}) {
    this.requireTask('fill-mask');
    const { mask } = this.contract.tokenizer.special_tokens;
    const encoding = this.encode(text);
    const places = encoding.ids.flatMap((id, place) => (id === mask?.id ? [place] : []));
    if (!places.length) throw new Error(`the text has no mask: expected ${mask?.token}`);
    const { data, dims } = (await this.run(encoding)).logits;
    return places.map((place) => {
      const scores = softmax(data.subarray(place * dims[2], (place + 1) * dims[2]));
      const order = scores.map((_, id) => id).sort((a, b) => scores[b] - scores[a]);
      return order.slice(0, count).map((id) => ({
        token: this.tokens.get(id),
        id,
        score: scores[id],
      }));
    });
  }

  encodePlaced(...texts) {
    if (this.noOffsets === null) return this.encode(...texts);
    throw new Error(`the JavaScript tokenizer gives no offsets with ${this.noOffsets}`);
  }
}

// A part of a text; start and end count UTF-16 units, as JavaScript's strings do.
function cut(text, first, last) {
  const chars = [...text];
  const start = chars.slice(0, first).join('').length;
  const part = chars.slice(first, last).join('');
  return { start, end: start + part.length, text: part };
}
