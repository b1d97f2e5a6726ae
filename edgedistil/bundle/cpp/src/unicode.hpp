// Unicode properties and mappings, as Hugging Face's tokenizers library has them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edgedistil::unicode {

// Bits of a character, in the order of scripts/make_unicode_tables.py.
enum Property : uint32_t {
  kWhitespace = 1u << 0,
  kControl = 1u << 1,
  kNonspacingMark = 1u << 2,
  kCombiningMark = 1u << 3,
  kPunctuation = 1u << 4,
  kNumeric = 1u << 5,
  kWord = 1u << 6,
  kRegexLetter = 1u << 7,
  kRegexNumber = 1u << 8,
  kRegexSpace = 1u << 9,
  kAttached = 1u << 10,
  kExtend = 1u << 11,
  kPrepend = 1u << 12,
  kGraphemeControl = 1u << 13,
  kPictographic = 1u << 14,
  kConsonant = 1u << 15,
  kLinker = 1u << 16,
  kConjunctExtend = 1u << 17,
};

// Returns whether a character has any of some properties.
bool has(char32_t character, uint32_t properties);

// Returns the canonical combining class.
int combining_class(char32_t character);

// Returns the lower-case form, one to three characters.
std::u32string_view lower(char32_t character);

// Appends the full decomposition; compatible ones (NFKD) if `compatible`.
void decompose(char32_t character, bool compatible, std::u32string& out);

// Returns the composition of two characters, or 0.
char32_t compose(char32_t first, char32_t second);

// Splits text into extended grapheme clusters; returns the end of each.
std::vector<size_t> grapheme_ends(const std::u32string& text);

// --- UTF-8
// -----------------------------------------------------------------------------------------

// Returns the bytes of a character in UTF-8.
size_t utf8_size(char32_t character);

// Appends a character in UTF-8.
void append_utf8(char32_t character, std::string& out);

// Decodes the character at `place` and moves `place` behind it; the text is valid UTF-8.
char32_t next_character(std::string_view text, size_t& place);

// Decodes a text that is valid UTF-8.
std::u32string decode(std::string_view text);

// Returns whether a text is valid UTF-8: no overlong forms, no surrogates.
bool is_valid(std::string_view text);

}  // namespace edgedistil::unicode
