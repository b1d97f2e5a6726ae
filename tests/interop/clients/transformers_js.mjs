// Runs on Node: node transformers_js.mjs ENVIRONMENT REQUEST.json ANSWER.json
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, basename } from 'node:path';
import { pathToFileURL } from 'node:url';

const [environment, requestFile, answerFile] = process.argv.slice(2);
const found = createRequire(`${environment}/package.json`).resolve('@huggingface/transformers');
const { pipeline, env } = await import(pathToFileURL(found));
const request = JSON.parse(readFileSync(requestFile, 'utf8'));
env.allowRemoteModels = false;

async function ask(job) {
  env.localModelPath = dirname(job.folder);
  const run = await pipeline(job.task, basename(job.folder), { dtype: job.dtype, device: 'cpu' });
  const ids = run.tokenizer(job.texts, { padding: true, truncation: true }).input_ids;
  const answer = { shape: ids.dims, input_ids: Array.from(ids.data, Number) };
  if (job.task === 'fill-mask') {
    answer.output = await run(job.texts, { top_k: 5 });
  } else {
    const vectors = await run(job.texts, { pooling: 'mean' });
    answer.dims = vectors.dims;
    answer.output = Array.from(vectors.data);
  }
  await run.dispose();
  return answer;
}

const answers = {};
for (const job of request.jobs) {
  try {
    answers[job.key] = await ask(job);
  } catch (error) {
    // A family that this version does not have.
    if (!job.may_fail) throw error;
    answers[job.key] = { error: String(error) };
  }
}
writeFileSync(answerFile, JSON.stringify(answers));
