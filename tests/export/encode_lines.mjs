// node encode_lines.mjs TOKENIZERS.mjs TOKENIZER.mjs FOLDER < texts.jsonl
import { readFileSync } from 'node:fs';

const [libraryFile, moduleFile, folder] = process.argv.slice(2);
const { Tokenizer } = await import(libraryFile);
const { createTokenizer } = await import(moduleFile);
const read = (name) => JSON.parse(readFileSync(`${folder}/${name}`, 'utf8'));
const encode = createTokenizer(Tokenizer, read('tokenizer.json'), read('rules.json'));
for (const line of readFileSync(0, 'utf8').trim().split('\n')) {
  const texts = JSON.parse(line);
  const { ids, types, offsets } = encode(...(Array.isArray(texts) ? texts : [texts]));
  console.log(JSON.stringify([ids, types, offsets]));
}
