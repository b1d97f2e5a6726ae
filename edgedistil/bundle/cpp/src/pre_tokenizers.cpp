#include <algorithm>
#include <array>

#include "parts.hpp"
#include "unicode.hpp"

namespace edgedistil {
namespace {

using unicode::has;

// --- patterns
// -------------------------------------------------------------------------------------

// Characters of a text, with the byte at which each begins; the last place is the text's end.
struct Characters {
  std::u32string codes;
  std::vector<size_t> places;

  explicit Characters(std::string_view text) {
    for (size_t place = 0; place < text.size();) {
      places.push_back(place);
      codes += unicode::next_character(text, place);
    }
    places.push_back(text.size());
  }
};

// Returns the matches of a function that says how many characters match at a place.
template <typename Length>
std::vector<Match> find_matches(std::string_view text, Length match_length) {
  const Characters characters(text);
  std::vector<Match> matches;
  size_t unmatched = 0;
  for (size_t at = 0; at < characters.codes.size();) {
    const size_t length = match_length(characters.codes, at);
    if (length == 0) {
      ++at;
      continue;
    }
    const size_t start = characters.places[at], end = characters.places[at + length];
    if (unmatched < start) matches.push_back({{unmatched, start}, false});
    matches.push_back({{start, end}, true});
    unmatched = end;
    at += length;
  }
  if (unmatched < text.size()) matches.push_back({{unmatched, text.size()}, false});
  return matches;
}

size_t run_length(const std::u32string& text, size_t at, uint32_t properties, bool expected) {
  size_t end = at;
  while (end < text.size() && has(text[end], properties) == expected) ++end;
  return end - at;
}

constexpr uint32_t kAnyClass = unicode::kRegexLetter | unicode::kRegexNumber | unicode::kRegexSpace;

size_t contraction_length(const std::u32string& text, size_t at) {
  constexpr std::array<std::u32string_view, 7> kEndings = {U"'s", U"'t",  U"'re", U"'ve",
                                                           U"'m", U"'ll", U"'d"};
  for (const std::u32string_view ending : kEndings) {
    if (text.compare(at, ending.size(), ending) == 0) return ending.size();
  }
  return 0;
}

// Words, numbers or signs, with at most one blank in front of them.
size_t word_length(const std::u32string& text, size_t at) {
  const size_t blank = text[at] == U' ' ? 1 : 0;
  const size_t start = at + blank;
  if (start == text.size()) return 0;
  for (const uint32_t property : {unicode::kRegexLetter, unicode::kRegexNumber}) {
    if (const size_t length = run_length(text, start, property, true)) return blank + length;
  }
  const size_t length = run_length(text, start, kAnyClass, false);
  return length > 0 ? blank + length : 0;
}

// GPT-2's pattern: contractions, words, numbers, signs, and blanks without the last before a word.
size_t byte_level_length(const std::u32string& text, size_t at) {
  if (const size_t length = contraction_length(text, at)) return length;
  if (const size_t length = word_length(text, at)) return length;
  const size_t blanks = run_length(text, at, unicode::kRegexSpace, true);
  const bool is_before_text = at + blanks < text.size();
  return is_before_text && blanks > 1 ? blanks - 1 : blanks;
}

size_t spaces_length(const std::u32string& text, size_t at, size_t least) {
  size_t end = at;
  while (end < text.size() && text[end] == U' ') ++end;
  return end - at >= least ? end - at : 0;
}

// Two or more white-space characters, or one that ends a line.
size_t blanks_or_line_end_length(const std::u32string& text, size_t at) {
  const size_t length = run_length(text, at, unicode::kRegexSpace, true);
  const bool is_line_end =
      std::u32string_view(U"\n\r\t").find(text[at]) != std::u32string_view::npos;
  return length >= 2 || is_line_end ? length : 0;
}

Pattern make_regex(const std::string& regex) {
  using Codes = std::u32string;
  if (regex == R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)") {
    return byte_level_pattern();
  }
  if (regex == R"(\s{2,}|[\n\r\t])") {
    return [](std::string_view text) { return find_matches(text, blanks_or_line_end_length); };
  }
  if (regex == R"(\s+)") {
    return [](std::string_view text) {
      return find_matches(text, [](const Codes& codes, size_t at) {
        return run_length(codes, at, unicode::kRegexSpace, true);
      });
    };
  }
  if (regex == " {2,}" || regex == " +") {
    const size_t least = regex == " +" ? 1 : 2;
    return [least](std::string_view text) {
      return find_matches(
          text, [least](const Codes& codes, size_t at) { return spaces_length(codes, at, least); });
    };
  }
  throw UnsupportedPart("regular expression " + regex);
}

Pattern make_literal(const std::string& text) {
  const std::u32string literal = unicode::decode(text);
  if (literal.empty()) throw UnsupportedPart("empty pattern");
  return [literal](std::string_view inside) {
    return find_matches(inside, [&](const std::u32string& codes, size_t at) {
      return codes.compare(at, literal.size(), literal) == 0 ? literal.size() : 0;
    });
  };
}

Pattern match_property(uint32_t property) {
  return [property](std::string_view text) {
    return match_characters(text,
                            [property](char32_t character) { return has(character, property); });
  };
}

// --- pre-tokenizers
// --------------------------------------------------------------------------------

SplitBehavior behavior_of(const std::string& name) {
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  throw UnsupportedPart("split behavior " + name);
}

PreTokenizer split_at(const Pattern& pattern, SplitBehavior behavior) {
  return [=](Pieces& pieces) {
    split_pieces(pieces,
                 [&](AlignedText& text) { return text.split(pattern(text.text()), behavior); });
  };
}

// Runs of word characters, and runs of others that are no white space.
size_t word_or_signs_length(const std::u32string& text, size_t at) {
  if (const size_t length = run_length(text, at, unicode::kWord, true)) return length;
  return run_length(text, at, unicode::kWord | unicode::kWhitespace, false);
}

PreTokenizer make_whitespace() {
  const Pattern pattern = [](std::string_view text) {
    return invert(find_matches(text, word_or_signs_length));
  };
  return split_at(pattern, SplitBehavior::removed);
}

PreTokenizer make_sequence(const json::Value& description) {
  std::vector<PreTokenizer> steps;
  for (const json::Value& step : description["pretokenizers"].as_items())
    steps.push_back(make_pre_tokenizer(step));
  return [steps](Pieces& pieces) {
    for (const PreTokenizer& step : steps) step(pieces);
  };
}

PreTokenizer make_byte_level(const json::Value& description) {
  const bool adds_space = description["add_prefix_space"].boolean_or(true);
  const bool uses_regex = description["use_regex"].boolean_or(true);
  return [=](Pieces& pieces) {
    split_pieces(pieces, [&](AlignedText& text) {
      if (adds_space && text.text()[0] != ' ') text.prepend(U" ");
      if (!uses_regex) return std::vector<AlignedText>{text};
      return text.split(byte_level_pattern()(text.text()), SplitBehavior::isolated);
    });
    for (Piece& piece : pieces) {
      if (!piece.tokens) to_byte_characters(piece.text);
    }
  };
}

// Whether ▁ is put in front of a piece: at the beginning of the text, always or never.
bool prepends(const std::string& scheme, const AlignedText& text) {
  if (scheme == "first") return text.original_start() == 0;
  return scheme == "always";
}

PreTokenizer make_metaspace(const json::Value& description) {
  const std::u32string mark = unicode::decode(description["replacement"].as_text());
  const std::string mark_bytes = description["replacement"].as_text();
  std::string scheme = description["prepend_scheme"].text_or("always");
  if (!description["add_prefix_space"].boolean_or(true)) scheme = "never";
  const bool splits = description["split"].boolean_or(true);
  const auto is_mark = [=](char32_t character) { return character == mark[0]; };
  return [=](Pieces& pieces) {
    split_pieces(pieces, [&](AlignedText& text) {
      text.replace(
          match_characters(text.text(), [](char32_t character) { return character == U' '; }),
          mark);
      const bool starts_with_mark = text.text().compare(0, mark_bytes.size(), mark_bytes) == 0;
      if (!starts_with_mark && prepends(scheme, text)) text.prepend(mark);
      if (!splits) return std::vector<AlignedText>{text};
      return text.split(match_characters(text.text(), is_mark), SplitBehavior::merged_with_next);
    });
  };
}

PreTokenizer make_split(const json::Value& description) {
  const Pattern pattern = make_pattern(description["pattern"]);
  const SplitBehavior behavior = behavior_of(description["behavior"].as_text());
  if (!description["invert"].boolean_or(false)) return split_at(pattern, behavior);
  return split_at([pattern](std::string_view text) { return invert(pattern(text)); }, behavior);
}

PreTokenizer make_bert() {
  const PreTokenizer words = split_at(match_property(unicode::kWhitespace), SplitBehavior::removed);
  const PreTokenizer signs =
      split_at(match_property(unicode::kPunctuation), SplitBehavior::isolated);
  return [=](Pieces& pieces) {
    words(pieces);
    signs(pieces);
  };
}

}  // namespace

Pattern byte_level_pattern() {
  return [](std::string_view text) { return find_matches(text, byte_level_length); };
}

Pattern make_pattern(const json::Value& description) {
  const json::Value& literal = description["String"];
  return literal.is_null() ? make_regex(description["Regex"].as_text())
                           : make_literal(literal.as_text());
}

void to_byte_characters(AlignedText& text) {
  static const auto characters = [] {
    std::array<char32_t, 256> table{};
    char32_t next = 256;
    for (unsigned byte = 0; byte < table.size(); ++byte) {
      const bool is_printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      table[byte] = is_printable ? byte : next++;
    }
    return table;
  }();
  std::vector<Change> changes;
  const std::string& bytes = text.text();
  for (size_t place = 0; place < bytes.size();) {
    const size_t start = place;
    unicode::next_character(bytes, place);
    for (size_t at = start; at < place; ++at) {
      changes.push_back({characters[static_cast<unsigned char>(bytes[at])], at > start ? 1 : 0});
    }
  }
  text.transform(changes);
}

void split_pieces(Pieces& pieces,
                  const std::function<std::vector<AlignedText>(AlignedText&)>& split) {
  Pieces parts;
  parts.reserve(pieces.size());
  for (Piece& piece : pieces) {
    if (piece.tokens) {
      parts.push_back(std::move(piece));
    } else if (!piece.text.empty()) {
      for (AlignedText& text : split(piece.text)) parts.push_back({std::move(text), std::nullopt});
    }
  }
  pieces = std::move(parts);
}

PreTokenizer make_pre_tokenizer(const json::Value& description) {
  if (description.is_null()) return [](Pieces&) {};
  const std::string& type = description["type"].as_text();
  if (type == "Sequence") return make_sequence(description);
  if (type == "BertPreTokenizer") return make_bert();
  if (type == "Whitespace") return make_whitespace();
  if (type == "WhitespaceSplit")
    return split_at(match_property(unicode::kWhitespace), SplitBehavior::removed);
  if (type == "ByteLevel") return make_byte_level(description);
  if (type == "Metaspace") return make_metaspace(description);
  if (type == "Split") return make_split(description);
  if (type == "Punctuation") {
    return split_at(match_property(unicode::kPunctuation),
                    behavior_of(description["behavior"].text_or("Isolated")));
  }
  if (type == "Digits") {
    const bool single = description["individual_digits"].boolean_or(false);
    return split_at(match_property(unicode::kNumeric),
                    single ? SplitBehavior::isolated : SplitBehavior::contiguous);
  }
  throw UnsupportedPart("pre-tokenizer " + type);
}

}  // namespace edgedistil
