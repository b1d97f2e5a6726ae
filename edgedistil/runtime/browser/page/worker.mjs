// Sessions of onnxruntime-web with one number of threads, and their timed calls.

// The runtime does not show its memory, which JavaScript creates.
const memories = [];
const Memory = WebAssembly.Memory;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor) {
    super(descriptor);
    memories.push(this);
  }
};

const ARRAYS = {
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  float32: Float32Array,
};
const sessions = new Map();
let ort;
let provider;
let inputs;

function nested(entries) {
  const result = {};
  for (const [key, value] of Object.entries(entries)) {
    const [last, ...levels] = key.split('.').reverse();
    levels.reverse().reduce((level, part) => (level[part] ??= {}), result)[last] = value;
  }
  return result;
}

const bytesOf = async (name) => {
  const response = await fetch(`files/${name}`);
  if (!response.ok) throw new Error(`${name} is missing: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
};

function tensor(metadata, { shape, values }, batch) {
  const Kind = ARRAYS[metadata.type];
  if (Kind === undefined) throw new Error(`an input of the type ${metadata.type} is not supported`);
  if (metadata.shape.length !== shape.length) {
    throw new Error(`the input ${metadata.name} has ${metadata.shape.length} axes, expected 2`);
  }
  const row = Kind === BigInt64Array ? values.map(BigInt) : values;
  const all = Array.from({ length: batch }, () => row).flat();
  return new ort.Tensor(metadata.type, Kind.from(all), [shape[0] * batch, shape[1]]);
}

function feedsOf(session, model) {
  const feeds = {};
  for (const [stored, arrays] of Object.entries(inputs)) {
    if (!stored.startsWith(model.key_prefix)) continue;
    const key = stored.slice(model.key_prefix.length);
    feeds[key] = {};
    for (const metadata of session.inputMetadata) {
      const source = model.inputs[metadata.name] ?? metadata.name;
      if (arrays[source] === undefined) {
        throw new Error(`the model needs ${source}, which inputs '${key}' lack`);
      }
      feeds[key][metadata.name] = tensor(metadata, arrays[source], model.batch);
    }
  }
  return feeds;
}

const actions = {
  async start({ threads, runtime, executionProvider }) {
    ort = await import(`./lib/${runtime}`);
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = new URL('./lib/', import.meta.url).href;
    ort.env.logLevel = 'error';
    provider = executionProvider;
    inputs = await (await fetch('inputs.json')).json();
  },

  async load({ label, model, files }) {
    const [graph, ...external] = await Promise.all(files.map(bytesOf));
    const { options, config_entries: entries } = model.session;
    const names = { ORT_DISABLE_ALL: 'disabled', ORT_ENABLE_BASIC: 'basic' };
    names.ORT_ENABLE_EXTENDED = 'extended';
    // From here to the end, the runtime is compiled and the session created; nothing is fetched
    // but the runtime.
    const started = performance.now();
    const session = await ort.InferenceSession.create(graph, {
      executionProviders: [provider],
      graphOptimizationLevel: names[options.graph_optimization_level] ?? 'all',
      enableCpuMemArena: options.enable_cpu_mem_arena,
      extra: nested(entries),
      logSeverityLevel: 3,
      externalData: external.map((data, index) => ({
        path: files[index + 1].split('/').pop(),
        data,
      })),
    });
    const load_ns = Math.ceil((performance.now() - started) * 1e6);
    sessions.set(label, { session, feeds: feedsOf(session, model) });
    return { load_ns };
  },

  // Calls in turn with the feeds, until the minima are met.
  async series({ label, keys, budget }) {
    const { session, feeds } = sessions.get(label);
    const { calls, seconds, most = Infinity, desiredCalls = 0, desiredSeconds = 0, median = 1 } = budget;
    const samples_ns = [];
    const started = performance.now();
    let ended = started;
    const elapsed = () => (ended - started) / 1000;
    while (
      samples_ns.length < calls ||
      elapsed() < seconds ||
      (samples_ns.length < desiredCalls && elapsed() < desiredSeconds)
    ) {
      const feed = feeds[keys[samples_ns.length % keys.length]];
      const callStarted = performance.now();
      const outputs = await session.run(feed);
      ended = performance.now();
      // The browser's clock is coarse, and no call takes no time.
      samples_ns.push(Math.max(1, Math.round((ended - callStarted) * 1e6)));
      for (const output of Object.values(outputs)) output.dispose();
      if (elapsed() > (most ?? Infinity) && samples_ns.length >= median) break;
    }
    const sum = samples_ns.reduce((a, b) => a + b, 0);
    return { samples_ns, wall_ns: Math.max(sum, Math.round((ended - started) * 1e6)) };
  },

  async outputs({ label, key }) {
    const { session, feeds } = sessions.get(label);
    const outputs = await session.run(feeds[key]);
    for (const [name, value] of Object.entries(outputs)) {
      const data = await value.getData();
      if (value.type !== 'float32') throw new Error(`the output ${name} is ${value.type}`);
      const query = new URLSearchParams({ name: `${label}/${key}/${name}`, shape: value.dims });
      const response = await fetch(`outputs?${query}`, { method: 'POST', body: data });
      if (!response.ok) throw new Error(`${name} was not taken: ${await response.text()}`);
      value.dispose();
    }
  },

  async heap() {
    return memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);
  },
};

self.onmessage = async ({ data: { number, action, settings } }) => {
  try {
    self.postMessage({ number, result: await actions[action](settings) });
  } catch (error) {
    self.postMessage({ number, error: String(error.message ?? error) });
  }
};
