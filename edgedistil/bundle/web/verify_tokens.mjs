// node verify_tokens.mjs LIBRARY MODEL: compares the tokens of conformance.jsonl.
//
// Prints {"difference": …, "offsets": …} as JSON: the first text with other tokens, and the part of
// the tokenizer without character offsets; null where there is none.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [libraryFile, folder] = process.argv.slice(2);
const url = (path) => pathToFileURL(resolve(path)).href;
const { Tokenizer } = await import(url(libraryFile));
const { createTokenizer, withoutOffsets } = await import(url(`${folder}/tokenizer.mjs`));
const read = (name) => readFileSync(`${folder}/${name}`, 'utf8');

const description = JSON.parse(read('tokenizer.json'));
const { tokenizer: rules } = JSON.parse(read('contract.json'));
const [, ...rows] = read('conformance.jsonl').trim().split('\n').map((line) => JSON.parse(line));

function difference() {
  let encode;
  try {
    encode = createTokenizer(Tokenizer, description, rules);
  } catch (error) {
    return error.message;
  }
  for (const { texts, tokens } of rows) {
    const { ids, types, offsets } = encode(...texts);
    const got = JSON.stringify([ids, types, offsets ?? tokens[2]]);
    if (got !== JSON.stringify(tokens)) return `other tokens of ${JSON.stringify(texts)}`;
  }
  return null;
}

console.log(JSON.stringify({ difference: difference(), offsets: withoutOffsets(description) }));
