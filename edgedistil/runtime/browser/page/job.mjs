// Runs a job of protocol.py on onnxruntime-web; `runJob` returns the parts of the reply that a page
// can see. Sessions with one number of threads share a worker.

// A median needs these, also after the time of a case is over.
const MIN_MEDIAN_CALLS = 5;
// Governors look at the load every 10 to 100 ms: a longer pause may have lowered the clock.
const LONGEST_PAUSE_MS = 50;

async function post(path, body) {
  const response = await fetch(path, { method: 'POST', body });
  if (!response.ok) throw new Error(`${path}: ${response.status}: ${await response.text()}`);
  return response;
}

class SessionWorker {
  constructor() {
    this.worker = new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module' });
    this.answers = new Map();
    this.number = 0;
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.answers.get(data.number);
      this.answers.delete(data.number);
      if (data.error === undefined) resolve(data.result);
      else reject(new Error(data.error));
    };
    this.worker.onerror = (event) => {
      for (const { reject } of this.answers.values()) reject(new Error(event.message));
    };
  }

  ask(action, settings) {
    this.number += 1;
    const { number } = this;
    const answer = new Promise((resolve, reject) => this.answers.set(number, { resolve, reject }));
    this.worker.postMessage({ number, action, settings });
    return answer;
  }
}

class Runner {
  constructor(job, options) {
    this.job = job;
    this.options = options;
    this.workers = new Map();
    this.models = {};
    this.lastCall = -Infinity;
  }

  async start(label) {
    const model = this.job.models[label];
    const threads = model.session.options.intra_op_num_threads;
    if (!this.workers.has(threads)) {
      const worker = new SessionWorker();
      this.workers.set(threads, worker);
      await worker.ask('start', { threads, ...this.options });
    }
    this.models[label] = this.workers.get(threads);
    return this.models[label].ask('load', { label, model, files: this.options.files[label] });
  }

  series(label, keys, budget) {
    return this.models[label].ask('series', { label, keys, budget });
  }

  // Untimed calls, until caches, compilation and the processor's clock have settled.
  async warmUp(labels, keys) {
    const { warmup_calls: calls, warmup_seconds: seconds } = this.job;
    const now = performance.now();
    const since = now - this.lastCall > LONGEST_PAUSE_MS ? now : this.busySince;
    this.busySince = since;
    for (const label of labels) await this.series(label, keys, { calls, seconds: 0 });
    while (performance.now() - since < seconds * 1000) {
      for (const label of labels) await this.series(label, keys, { calls: 1, seconds: 0 });
    }
    this.lastCall = performance.now();
  }

  // Bytes of the memories of WebAssembly and of JavaScript's objects, of all sessions together.
  async heaps() {
    let wasm = 0;
    for (const worker of this.workers.values()) wasm += await worker.ask('heap', {});
    // The runtime's threads sleep in WebAssembly and answer no question: the browser would wait for
    // them for a minute.
    const isThreaded = [...this.workers.keys()].some((threads) => threads > 1);
    return { wasm, js: isThreaded ? null : await scriptBytes() };
  }

  // Times `work`, and what the system did to the page's process meanwhile.
  async watched(work) {
    const before = await counters();
    const result = await work();
    const after = await counters();
    const since = (name) =>
      after[name] === null || before[name] === null ? null : Math.max(0, after[name] - before[name]);
    const known = (names) =>
      Object.fromEntries(names.map((name) => [name, since(name)]).filter(([, value]) => value !== null));
    return {
      ...result,
      cpu_ns: since('cpu_ns') ?? 0,
      faults: { minor: since('minor') ?? 0, major: since('major') ?? 0 },
      interference: known(['involuntary_switches', 'waiting_ns', 'stolen_ns', 'throttled_periods']),
    };
  }

  async measureCase(label, item) {
    const { job } = this;
    await this.warmUp([label], item.keys);
    const isPass = item.mode === 'pass';
    const budget = isPass
      ? { calls: item.keys.length, seconds: 0, most: item.max_seconds }
      : {
          calls: job.min_calls,
          seconds: job.min_seconds,
          most: job.max_seconds,
          desiredCalls: job.desired_calls,
          desiredSeconds: job.desired_seconds,
        };
    const times = await this.watched(() =>
      this.series(label, item.keys, { ...budget, median: MIN_MEDIAN_CALLS }),
    );
    this.lastCall = performance.now();
    return { ...times, truncated: times.samples_ns.length < budget.calls };
  }

  async alternate(item) {
    const { first, second, keys } = item;
    await this.warmUp([first, second], keys);
    const deadline = performance.now() + item.max_seconds * 1000;
    const { cpu_ns, interference, blocks, wall_ns } = await this.watched(async () => {
      const started = performance.now();
      const rounds = [];
      for (let index = 0; index < item.blocks; index += 1) {
        // Each is first equally often.
        if (index % 2 === 0 && performance.now() > deadline) break;
        const order = index % 2 === 0 ? [first, second] : [second, first];
        const start = index * item.calls_per_block;
        const count = item.calls_per_block;
        const chosen = Array.from({ length: count }, (_, i) => keys[(start + i) % keys.length]);
        const times = {};
        for (const label of order) {
          // An untimed call brings the weights back into the cache.
          await this.series(label, chosen.slice(-1), { calls: 1, seconds: 0 });
          times[label] = (await this.series(label, chosen, { calls: count, seconds: 0 })).samples_ns;
        }
        rounds.push({ first_ns: times[first], second_ns: times[second] });
      }
      return { blocks: rounds, wall_ns: Math.ceil((performance.now() - started) * 1e6) };
    });
    return { name: item.name, first, second, blocks, cpu_ns, interference, wall_ns };
  }
}

const counters = async () => (await post('counters')).json();

function phase(name) {
  return post('phase', name);
}

// Runs a job. options: wasm (file of the runtime), provider, files by label.
export async function runJob(job, options) {
  const runner = new Runner(job, options);
  const reply = { models: {}, alternation: [] };
  for (const label of Object.keys(job.models)) {
    await phase(`load ${label}`);
    const memory = { start: (await counters()).resident };
    const { load_ns, input_bytes } = await runner.start(label);
    memory.load = (await counters()).resident;
    await phase(`first call ${label}`);
    const first = await runner.series(label, [job.cases[0].keys[0]], { calls: 1, seconds: 0 });
    const entry = { memory, load_ns, input_bytes, first_call_ns: first.samples_ns[0], cases: {} };
    // Since the page was opened: runtime and graph are fetched from this machine, and compiled.
    entry.start_to_first_result_ns = Math.round(performance.now() * 1e6);
    memory.first_call = (await counters()).resident;
    reply.models[label] = entry;
    if (job.phases.includes('steady')) {
      for (const item of job.cases) {
        if (item.mode === 'pass') memory.peak_before_pass ??= (await counters()).peak;
        await phase(`steady ${label} ${item.name}`);
        entry.cases[item.name] = await runner.measureCase(label, item);
      }
      memory.run = (await counters()).resident;
    }
    memory.peak = (await counters()).peak;
  }
  reply.heaps = await runner.heaps();
  for (const item of job.alternate) {
    await phase(`alternate ${item.name}`);
    reply.alternation.push(await runner.alternate(item));
  }
  await post('timed');
  if (job.phases.includes('outputs')) {
    await phase('outputs');
    for (const label of Object.keys(job.models)) {
      for (const key of job.output_keys ?? Object.keys(await inputs())) {
        await runner.models[label].ask('outputs', { label, key });
      }
    }
  }
  return reply;
}

// Bytes of JavaScript's objects, in workers too; browsers measure them in pages that are isolated.
async function scriptBytes() {
  if (performance.measureUserAgentSpecificMemory === undefined) return null;
  const { breakdown } = await performance.measureUserAgentSpecificMemory();
  const scripts = breakdown.filter(({ types }) => types.includes('JavaScript'));
  return scripts.reduce((sum, { bytes }) => sum + bytes, 0);
}

const inputs = async () => (await fetch('inputs.json')).json();

// Returns what the page can use.
export function describePage() {
  return {
    isolated: crossOriginIsolated,
    cores: navigator.hardwareConcurrency,
    agent: navigator.userAgent,
  };
}

// Whether WebGPU gives an adapter, and which; the reason where it does not.
export async function describeWebGpu() {
  if (navigator.gpu === undefined) return { absent: 'navigator.gpu is not defined' };
  const adapter = await navigator.gpu.requestAdapter();
  if (adapter === null) return { absent: 'requestAdapter gave no adapter' };
  const { vendor, architecture, description } = adapter.info;
  return { adapter: [vendor, architecture, description].filter(Boolean).join(' ') };
}

Object.assign(globalThis, { runJob, describePage, describeWebGpu });
