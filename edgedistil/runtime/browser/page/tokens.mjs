// Times the JavaScript tokenizer of an export in this page, one text at a time.
import { Tokenizer } from './lib/tokenizers.min.mjs';
import { createTokenizer } from './tokenizer/tokenizer.mjs';

const json = async (path) => (await fetch(path)).json();

// Returns for each group of texts the milliseconds of `calls` calls, after some untimed ones.
export async function timeTexts({ warmup, calls }) {
  const paths = ['tokenizer/tokenizer.json', 'tokenizer/contract.json', 'texts.json'];
  const [description, contract, groups] = await Promise.all(paths.map(json));
  const encode = createTokenizer(Tokenizer, description, contract.tokenizer);
  const samples = {};
  for (const [name, texts] of Object.entries(groups)) {
    samples[name] = [];
    for (let number = 0; number < warmup + calls; number += 1) {
      const text = texts[number % texts.length];
      const started = performance.now();
      encode(text);
      const elapsed = performance.now() - started;
      if (number >= warmup) samples[name].push(elapsed);
    }
  }
  return samples;
}
