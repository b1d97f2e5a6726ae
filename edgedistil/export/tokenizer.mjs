// Tokenizes texts for a model of this folder, in a browser or on Node.
//
// Uses the class Tokenizer of @huggingface/tokenizers, and replaces the steps in which version
// 0.2.0 differs from the tokenizer of the model. conformance.jsonl has the ids.

const SPACE = /^\p{White_Space}$/u;
const CONTROL = /^[\p{Cc}\p{Cf}\p{Co}\p{Cs}]$/u;
// The blocks that BERT calls Chinese, without the extensions after Unicode 8.
const CHINESE = new RegExp(
  '^[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}' +
    '\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]$',
  'u',
);
// Longer clusters are replaced character by character.
const MAX_CLUSTER_BYTES = 5;

// --- normalizers: characters with the place in the text that each one comes from ---------------

function bertSteps(part) {
  const strips = part.strip_accents ?? part.lowercase;
  return (char) => {
    if (part.clean_text) {
      if (char === '\0' || char === '\ufffd') return [];
      if (CONTROL.test(char) && !'\t\n\r'.includes(char)) return [];
      if (SPACE.test(char)) char = ' ';
    }
    const isChinese = part.handle_chinese_chars && CHINESE.test(char);
    if (strips) char = char.normalize('NFD').replace(/\p{Mn}/gu, '');
    // One by one: lower case of a complete text depends on the neighbours of a sigma.
    let chars = [...char];
    if (part.lowercase) chars = chars.flatMap((item) => [...item.toLowerCase()]);
    return isChinese ? [' ', ...chars, ' '] : chars;
  };
}

function precompiled(base64) {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const size = view.getUint32(0, true);
  const unit = (node) => view.getUint32(4 + 4 * node, true);
  const offset = (value) => (value >>> 10) << (value & 0x200 ? 8 : 0);
  // The replacement of the shortest key that a text begins with, in a Darts double array.
  function find(text) {
    let node = offset(unit(0));
    for (const label of new TextEncoder().encode(text)) {
      node ^= label;
      const here = unit(node);
      if (label === 0 || (here & 0x800000ff) !== label) return null;
      node ^= offset(here);
      if (!(here & 0x100)) continue;
      const start = 4 + size + (unit(node) & 0x7fffffff);
      return new TextDecoder().decode(bytes.subarray(start, bytes.indexOf(0, start)));
    }
    return null;
  }
  const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' });
  const replaced = (cluster) => {
    const isShort = new TextEncoder().encode(cluster).length <= MAX_CLUSTER_BYTES;
    return (isShort ? find(cluster) : null) ?? [...cluster].map((c) => find(c) ?? c).join('');
  };
  return (text) => Array.from(segmenter.segment(text), (part) => replaced(part.segment)).join('');
}

// Returns a function from text to text; `original` is the library's normalizer.
function normalizer(part, original) {
  if (part === null) return (text) => text;
  switch (part.type) {
    case 'Sequence': {
      const steps = part.normalizers.map((step, i) => normalizer(step, original.normalizers[i]));
      return (text) => steps.reduce((result, step) => step(result), text);
    }
    case 'BertNormalizer': {
      const step = bertSteps(part);
      return (text) => [...text].flatMap(step).join('');
    }
    case 'Lowercase':
      return (text) => Array.from(text, (char) => char.toLowerCase()).join('');
    case 'Precompiled':
      return precompiled(part.precompiled_charsmap);
    case 'Strip':
      return (text) => {
        if (part.strip_left) text = text.replace(/^\p{White_Space}+/u, '');
        return part.strip_right ? text.replace(/\p{White_Space}+$/u, '') : text;
      };
    default:
      return (text) => original.normalize(text);
  }
}

// --- pre-tokenizers ---------------------------------------------------------------------------

// The library joins neighbours of punctuation, and has JavaScript's idea of white space.
const PUNCTUATION = '\\p{P}\\u0021-\\u002f\\u003a-\\u0040\\u005b-\\u0060\\u007b-\\u007e';
const PIECES = {
  WhitespaceSplit: () => /\P{White_Space}+/gu,
  Punctuation: ({ behavior }) =>
    behavior.toLowerCase() === 'isolated'
      ? new RegExp(`[^${PUNCTUATION}]+|[${PUNCTUATION}]`, 'gu')
      : null,
};

function correctPreTokenizer(part, original) {
  for (const [index, step] of (part?.pretokenizers ?? []).entries()) {
    correctPreTokenizer(step, original.tokenizers[index]);
  }
  const pieces = PIECES[part?.type]?.(part);
  if (pieces) original.pre_tokenize_text = (text) => text.match(pieces) ?? [];
}

// --- a text and its tokens --------------------------------------------------------------------

// Why a tokenizer gives no character offsets; null where it does.
export function withoutOffsets(description) {
  const { model, normalizer: part, added_tokens: added } = description;
  if (model.type !== 'WordPiece') return `the model ${model.type}`;
  if (part !== null && part.type !== 'BertNormalizer') return `the normalizer ${part.type}`;
  if (description.pre_tokenizer?.type !== 'BertPreTokenizer') {
    return `the pre-tokenizer ${description.pre_tokenizer?.type}`;
  }
  return added.some((token) => token.normalized) ? 'added tokens that are normalized' : null;
}

// Yields tokens with their places, [first, last) in characters, of WordPiece.
function* placedTokens(library, step, text) {
  let start = 0;
  for (const section of library.splitter_unnormalized.split(text)) {
    const length = [...section].length;
    if (library.added_tokens_map.has(section)) yield [section, start, start + length];
    else yield* placedWords(library, step, section, start);
    start += length;
  }
}

function* placedWords(library, step, section, start) {
  const chars = [];
  const places = [];
  [...section].forEach((char, index) => {
    for (const item of step(char)) {
      chars.push(item);
      places.push(start + index);
    }
  });
  let place = 0;
  for (const word of library.pre_tokenizer(chars.join(''))) {
    while (SPACE.test(chars[place])) place += 1;
    const end = place + [...word].length;
    const tokens = library.model([word]);
    const isUnknown = tokens.length === 1 && tokens[0] === library.model.unk_token;
    const prefix = library.model.config.continuing_subword_prefix;
    for (const [index, token] of tokens.entries()) {
      const piece = index > 0 ? token.slice(prefix.length) : token;
      const last = isUnknown ? end : place + [...piece].length;
      yield [token, places[place], places[last - 1] + 1];
      place = last;
    }
  }
}

// Lengths of two texts that together have at most `room` tokens: the longer one is cut first.
function pairLengths(first, second, room) {
  if (first + second <= room) return [first, second];
  let short = Math.min(first, second);
  let long = short > room ? short : Math.max(short, room - short);
  if (short + long > room) {
    short = Math.floor(room / 2);
    long = short + (room % 2);
  }
  return first > second ? [long, short] : [short, long];
}

// Returns a function from one text or two to ids, token types, and offsets in characters (null
// where the tokenizer gives none; [0, 0] at special tokens).
//
// Tokenizer: the class of @huggingface/tokenizers; description: tokenizer.json;
// rules: `tokenizer` of contract.json.
export function createTokenizer(Tokenizer, description, rules) {
  const added = description.added_tokens.filter(
    (token) => !(rules.splits_special_tokens && token.special),
  );
  const library = new Tokenizer({ ...description, added_tokens: added }, {});
  library.normalizer = normalizer(description.normalizer, library.normalizer);
  correctPreTokenizer(description.pre_tokenizer, library.pre_tokenizer);
  const isPlaced = withoutOffsets(description) === null;
  const bert = description.normalizer;
  const step = bert === null ? (char) => [char] : bertSteps(bert);
  const idOf = (token) =>
    library.added_tokens_map.get(token)?.id ??
    library.model.tokens_to_ids.get(token) ??
    library.model.unk_token_id;

  function tokens(text) {
    if (!isPlaced) {
      const { ids } = library.encode(text, { add_special_tokens: false });
      return ids.map((id) => [id, null]);
    }
    const placed = [...placedTokens(library, step, text)];
    return placed.map(([token, first, last]) => [idOf(token), [first, last]]);
  }

  return (...texts) => {
    const frame = texts.length > 1 ? rules.pair : rules.single;
    const room = rules.max_length - frame.filter((part) => part.text === null).length;
    const parts = texts.map(tokens);
    const lengths =
      parts.length > 1
        ? pairLengths(parts[0].length, parts[1].length, room)
        : [Math.min(parts[0].length, room)];
    const cut = parts.map((part, index) => {
      const excess = part.length - lengths[index];
      return rules.truncation_side === 'left' ? part.slice(excess) : part.slice(0, lengths[index]);
    });
    const result = { ids: [], types: [], offsets: isPlaced ? [] : null, texts: [] };
    for (const part of frame) {
      for (const [id, place] of part.text === null ? [[part.id, [0, 0]]] : cut[part.text]) {
        result.ids.push(id);
        result.types.push(part.type_id);
        result.offsets?.push(place);
        result.texts.push(part.text);
      }
    }
    return result;
  };
}
