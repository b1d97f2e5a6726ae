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

const answers = {};
for (const job of request.jobs) {
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
  answers[job.key] = answer;
  await run.dispose();
}
writeFileSync(answerFile, JSON.stringify(answers));
