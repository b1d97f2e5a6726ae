// Runs on Node: node vectors.mjs ENVIRONMENT REQUEST.json ANSWER.json
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [environment, requestFile, answerFile] = process.argv.slice(2);
const found = createRequire(`${environment}/package.json`).resolve('@huggingface/transformers');
const { AutoModel, AutoTokenizer, env } = await import(pathToFileURL(found));
const request = JSON.parse(readFileSync(requestFile, 'utf8'));
env.allowRemoteModels = false;

const answers = {};
for (const job of request.jobs) {
  env.localModelPath = dirname(job.folder);
  const contract = JSON.parse(readFileSync(join(job.folder, 'contract.json'), 'utf8'));
  const prompt = contract.sentence_vector.prompts.query;
  const tokenizer = await AutoTokenizer.from_pretrained(basename(job.folder));
  const options = { dtype: job.dtype, device: 'cpu' };
  const model = await AutoModel.from_pretrained(basename(job.folder), options);
  const texts = job.texts.map((text) => prompt + text);
  const outputs = await model(tokenizer(texts, { padding: true, truncation: true }));
  const vectors = outputs.sentence_embedding;
  answers[job.key] = { dims: vectors.dims, values: Array.from(vectors.data) };
  await model.dispose();
}
writeFileSync(answerFile, JSON.stringify(answers));
