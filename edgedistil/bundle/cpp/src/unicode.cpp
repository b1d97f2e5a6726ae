#include "unicode.hpp"

#include <algorithm>
#include <array>
#include <iterator>

namespace edgedistil::unicode {
namespace {

// From this code point on, up to the next run's, characters have these properties.
struct PropertyRun {
  uint32_t first;
  uint32_t bits;
  uint8_t combining_class;
};

// A character, and the place and length of its replacement in a pool.
struct Mapping {
  uint32_t character;
  uint16_t place;
  uint8_t length;
};

struct Composition {
  uint32_t first, second, composed;
};

#include "unicode_tables.inc"

constexpr char32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11A7;
constexpr char32_t kVowelCount = 21, kTrailCount = 28, kSyllableCount = 11172, kLeadCount = 19;
constexpr char32_t kJoiner = 0x200D;

const PropertyRun& find_run(char32_t character) {
  auto after =
      std::upper_bound(std::begin(property_runs), std::end(property_runs), character,
                       [](char32_t code, const PropertyRun& run) { return code < run.first; });
  return *std::prev(after);
}

// Most text is ASCII: its runs are looked up once.
const PropertyRun& run_of(char32_t character) {
  static const auto ascii = [] {
    std::array<const PropertyRun*, 128> runs{};
    for (char32_t code = 0; code < runs.size(); ++code) runs[code] = &find_run(code);
    return runs;
  }();
  return character < ascii.size() ? *ascii[character] : find_run(character);
}

template <size_t N>
const Mapping* find_mapping(const Mapping (&index)[N], char32_t character) {
  auto place =
      std::lower_bound(std::begin(index), std::end(index), character,
                       [](const Mapping& row, char32_t code) { return row.character < code; });
  return place != std::end(index) && place->character == character ? place : nullptr;
}

bool is_syllable(char32_t character) {
  return character >= kSyllables && character < kSyllables + kSyllableCount;
}

void decompose_syllable(char32_t character, std::u32string& out) {
  const char32_t number = character - kSyllables;
  out += kLeads + number / (kVowelCount * kTrailCount);
  out += kVowels + number % (kVowelCount * kTrailCount) / kTrailCount;
  if (number % kTrailCount != 0) out += kTrails + number % kTrailCount;
}

char32_t compose_syllable(char32_t first, char32_t second) {
  const bool is_lead = first >= kLeads && first < kLeads + kLeadCount;
  if (is_lead && second >= kVowels && second < kVowels + kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
  }
  const bool has_no_trail = is_syllable(first) && (first - kSyllables) % kTrailCount == 0;
  if (has_no_trail && second > kTrails && second < kTrails + kTrailCount) {
    return first + (second - kTrails);
  }
  return 0;
}

// --- grapheme clusters
// ------------------------------------------------------------------------------

bool is_between(char32_t character, char32_t first, char32_t last) {
  return character >= first && character <= last;
}

bool is_regional(char32_t character) { return is_between(character, 0x1F1E6, 0x1F1FF); }

enum class Jamo { none, lead, vowel, trail, syllable, closed_syllable };

Jamo jamo_of(char32_t character) {
  if (is_between(character, 0x1100, 0x115F) || is_between(character, 0xA960, 0xA97C))
    return Jamo::lead;
  if (is_between(character, 0x1160, 0x11A7) || is_between(character, 0xD7B0, 0xD7C6))
    return Jamo::vowel;
  if (is_between(character, 0x11A8, 0x11FF) || is_between(character, 0xD7CB, 0xD7FB))
    return Jamo::trail;
  if (!is_syllable(character)) return Jamo::none;
  return (character - kSyllables) % kTrailCount == 0 ? Jamo::syllable : Jamo::closed_syllable;
}

bool joins_hangul(Jamo left, Jamo right) {
  if (left == Jamo::lead) return right != Jamo::none && right != Jamo::trail;
  if (left == Jamo::vowel || left == Jamo::syllable)
    return right == Jamo::vowel || right == Jamo::trail;
  return (left == Jamo::trail || left == Jamo::closed_syllable) && right == Jamo::trail;
}

// Returns whether a pictograph, marks and a joiner end before `place` (rule GB11).
bool ends_in_joined_pictograph(const std::u32string& text, size_t place) {
  if (text[place - 1] != kJoiner) return false;
  size_t at = place - 1;
  while (at > 0 && has(text[at - 1], kExtend)) --at;
  return at > 0 && has(text[at - 1], kPictographic);
}

// Returns whether a consonant with a linker ends before `place` (rule GB9c).
bool ends_in_linked_consonant(const std::u32string& text, size_t place) {
  bool has_linker = false;
  while (place > 0 && has(text[place - 1], kLinker | kConjunctExtend)) {
    has_linker = has_linker || has(text[place - 1], kLinker);
    --place;
  }
  return has_linker && place > 0 && has(text[place - 1], kConsonant);
}

bool is_after_odd_regionals(const std::u32string& text, size_t place) {
  size_t count = 0;
  while (count < place && is_regional(text[place - 1 - count])) ++count;
  return count % 2 == 1;
}

// Returns whether a cluster ends between `place - 1` and `place` (Unicode Annex 29).
bool is_boundary(const std::u32string& text, size_t place) {
  const char32_t left = text[place - 1], right = text[place];
  if (left == '\r' && right == '\n') return false;
  if (has(left, kGraphemeControl) || has(right, kGraphemeControl)) return true;
  if (has(right, kAttached) || has(left, kPrepend)) return false;
  if (joins_hangul(jamo_of(left), jamo_of(right))) return false;
  if (has(right, kConsonant) && ends_in_linked_consonant(text, place)) return false;
  if (has(right, kPictographic) && ends_in_joined_pictograph(text, place)) return false;
  return !(is_regional(right) && is_after_odd_regionals(text, place));
}

}  // namespace

bool has(char32_t character, uint32_t properties) {
  return (run_of(character).bits & properties) != 0;
}

int combining_class(char32_t character) { return run_of(character).combining_class; }

std::u32string_view lower(char32_t character) {
  static const auto ascii = [] {
    std::array<char32_t, 128> table{};
    for (char32_t code = 0; code < table.size(); ++code) {
      table[code] = code >= 'A' && code <= 'Z' ? code + ('a' - 'A') : code;
    }
    return table;
  }();
  if (character < ascii.size()) return {&ascii[character], 1};
  if (const Mapping* row = find_mapping(lower_index, character))
    return {lower_pool + row->place, row->length};
  return {};
}

void decompose(char32_t character, bool compatible, std::u32string& out) {
  if (is_syllable(character)) return decompose_syllable(character, out);
  const Mapping* row = compatible ? find_mapping(compatible_index, character) : nullptr;
  if (row != nullptr) {
    out.append(compatible_pool + row->place, row->length);
  } else if ((row = find_mapping(canonical_index, character)) != nullptr) {
    out.append(canonical_pool + row->place, row->length);
  } else {
    out += character;
  }
}

char32_t compose(char32_t first, char32_t second) {
  if (char32_t syllable = compose_syllable(first, second)) return syllable;
  const auto is_before = [](const Composition& row, const std::pair<char32_t, char32_t>& key) {
    return std::pair<char32_t, char32_t>(row.first, row.second) < key;
  };
  auto place = std::lower_bound(std::begin(compositions), std::end(compositions),
                                std::pair(first, second), is_before);
  if (place == std::end(compositions) || place->first != first || place->second != second) return 0;
  return place->composed;
}

std::vector<size_t> grapheme_ends(const std::u32string& text) {
  std::vector<size_t> ends;
  for (size_t place = 1; place < text.size(); ++place) {
    if (is_boundary(text, place)) ends.push_back(place);
  }
  if (!text.empty()) ends.push_back(text.size());
  return ends;
}

// --- UTF-8
// -----------------------------------------------------------------------------------------

size_t utf8_size(char32_t character) {
  if (character < 0x80) return 1;
  if (character < 0x800) return 2;
  return character < 0x10000 ? 3 : 4;
}

void append_utf8(char32_t character, std::string& out) {
  const size_t size = utf8_size(character);
  if (size == 1) {
    out += static_cast<char>(character);
    return;
  }
  constexpr unsigned kLeadBits[] = {0, 0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLeadBits[size] | character >> (6 * (size - 1)));
  for (size_t rest = size - 1; rest-- > 0;) {
    out += static_cast<char>(0x80 | (character >> (6 * rest) & 0x3F));
  }
}

char32_t next_character(std::string_view text, size_t& place) {
  const auto lead = static_cast<unsigned char>(text[place++]);
  if (lead < 0x80) return lead;
  const int following = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t character = lead & (0x3F >> following);
  for (int count = 0; count < following; ++count) {
    character = character << 6 | (static_cast<unsigned char>(text[place++]) & 0x3F);
  }
  return character;
}

std::u32string decode(std::string_view text) {
  std::u32string characters;
  characters.reserve(text.size());
  for (size_t place = 0; place < text.size();) characters += next_character(text, place);
  return characters;
}

bool is_valid(std::string_view text) {
  for (size_t place = 0; place < text.size();) {
    const auto lead = static_cast<unsigned char>(text[place]);
    if (lead < 0x80) {
      ++place;
      continue;
    }
    const size_t size = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (size == 0 || place + size > text.size()) return false;
    for (size_t at = place + 1; at < place + size; ++at) {
      if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80) return false;
    }
    const char32_t character = next_character(text, place);
    const bool is_surrogate = is_between(character, 0xD800, 0xDFFF);
    if (utf8_size(character) != size || is_surrogate || character > 0x10FFFF) return false;
  }
  return true;
}

}  // namespace edgedistil::unicode
