#include <algorithm>

#include "parts.hpp"
#include "unicode.hpp"

namespace edgedistil {
namespace {

using unicode::has;

// --- Unicode normalization
// -------------------------------------------------------------------------

struct Mark {
  Change change;
  int combining_class;
};

std::vector<Mark> decompose(const std::string& text, bool compatible) {
  std::vector<Mark> marks;
  std::u32string parts;
  for (size_t place = 0; place < text.size();) {
    parts.clear();
    unicode::decompose(unicode::next_character(text, place), compatible, parts);
    for (size_t index = 0; index < parts.size(); ++index) {
      marks.push_back({{parts[index], index > 0 ? 1 : 0}, unicode::combining_class(parts[index])});
    }
  }
  // Marks behind a character are put in the order of their classes.
  for (auto start = marks.begin(); start != marks.end();) {
    auto end = std::find_if(start, marks.end(),
                            [](const Mark& mark) { return mark.combining_class == 0; });
    std::stable_sort(start, end, [](const Mark& a, const Mark& b) {
      return a.combining_class < b.combining_class;
    });
    start = end == marks.end() ? end : std::next(end);
  }
  return marks;
}

// Composes decomposed text: each starter takes the marks behind it that are not blocked.
std::vector<Change> compose(const std::vector<Mark>& marks) {
  std::vector<Change> out;
  std::vector<Mark> blocked;
  std::optional<Change> starter;
  const auto flush = [&] {
    if (starter) out.push_back(*starter);
    for (const Mark& mark : blocked) out.push_back(mark.change);
    starter.reset();
    blocked.clear();
  };
  for (const Mark& mark : marks) {
    const bool is_free =
        starter && (blocked.empty() || blocked.back().combining_class < mark.combining_class);
    const char32_t composed =
        is_free ? unicode::compose(starter->character, mark.change.character) : 0;
    if (composed != 0) {
      starter = Change{composed, starter->change + mark.change.change - 1};
    } else if (mark.combining_class == 0) {
      flush();
      starter = mark.change;
    } else if (starter) {
      blocked.push_back(mark);
    } else {
      out.push_back(mark.change);
    }
  }
  flush();
  return out;
}

void normalize_unicode(AlignedText& text, bool compatible, bool composes) {
  const std::vector<Mark> marks = decompose(text.text(), compatible);
  if (composes) return text.transform(compose(marks));
  std::vector<Change> changes;
  for (const Mark& mark : marks) changes.push_back(mark.change);
  text.transform(changes);
}

// --- single characters
// ------------------------------------------------------------------------------

void map_characters(AlignedText& text, const std::function<char32_t(char32_t)>& map) {
  std::vector<Change> changes;
  for (const char32_t character : unicode::decode(text.text()))
    changes.push_back({map(character), 0});
  text.transform(changes);
}

void lowercase(AlignedText& text) {
  std::vector<Change> changes;
  for (const char32_t character : unicode::decode(text.text())) {
    const std::u32string_view lower = unicode::lower(character);
    changes.push_back({lower.empty() ? character : lower[0], 0});
    for (size_t index = 1; index < lower.size(); ++index) changes.push_back({lower[index], 1});
  }
  text.transform(changes);
}

bool is_between(char32_t character, char32_t first, char32_t last) {
  return character >= first && character <= last;
}

// The blocks that BERT calls Chinese, without the extensions after Unicode 8.
bool is_chinese(char32_t c) {
  return is_between(c, 0x4E00, 0x9FFF) || is_between(c, 0x3400, 0x4DBF) ||
         is_between(c, 0x20000, 0x2A6DF) || is_between(c, 0x2A700, 0x2B73F) ||
         is_between(c, 0x2B740, 0x2B81F) || is_between(c, 0x2B920, 0x2CEAF) ||
         is_between(c, 0xF900, 0xFAFF) || is_between(c, 0x2F800, 0x2FA1F);
}

void separate_chinese(AlignedText& text) {
  std::vector<Change> changes;
  for (const char32_t character : unicode::decode(text.text())) {
    if (is_chinese(character)) {
      changes.insert(changes.end(), {{U' ', 0}, {character, 1}, {U' ', 1}});
    } else {
      changes.push_back({character, 0});
    }
  }
  text.transform(changes);
}

void clean(AlignedText& text) {
  text.filter([](char32_t character) { return !has(character, unicode::kControl); });
  map_characters(text, [](char32_t character) {
    return has(character, unicode::kWhitespace) ? U' ' : character;
  });
}

void strip_accents(AlignedText& text) {
  normalize_unicode(text, false, false);
  text.filter([](char32_t character) { return !has(character, unicode::kNonspacingMark); });
}

Normalizer make_bert(const json::Value& description) {
  const bool cleans = description["clean_text"].boolean_or(true);
  const bool separates = description["handle_chinese_chars"].boolean_or(true);
  const bool lowers = description["lowercase"].boolean_or(true);
  const bool strips = description["strip_accents"].boolean_or(lowers);
  return [=](AlignedText& text) {
    if (cleans) clean(text);
    if (separates) separate_chinese(text);
    if (strips) strip_accents(text);
    if (lowers) lowercase(text);
  };
}

bool is_nmt_control(char32_t c) {
  return is_between(c, 0x01, 0x08) || c == 0x0B || is_between(c, 0x0E, 0x1F) || c == 0x7F ||
         c == 0x8F || c == 0x9F;
}

bool is_nmt_space(char32_t c) {
  constexpr std::u32string_view kSpaces = U"\t\n\f\r\u1680\u2028\u2029\u2581\uFEFF\uFFFD";
  return is_between(c, 0x200B, 0x200F) || kSpaces.find(c) != std::u32string_view::npos;
}

void normalize_nmt(AlignedText& text) {
  text.filter([](char32_t character) { return !is_nmt_control(character); });
  map_characters(text,
                 [](char32_t character) { return is_nmt_space(character) ? U' ' : character; });
}

Normalizer make_sequence(const json::Value& description) {
  std::vector<Normalizer> steps;
  for (const json::Value& step : description["normalizers"].as_items())
    steps.push_back(make_normalizer(step));
  return [steps](AlignedText& text) {
    for (const Normalizer& step : steps) step(text);
  };
}

Normalizer make_replace(const json::Value& description) {
  const Pattern pattern = make_pattern(description["pattern"]);
  const std::u32string content = unicode::decode(description["content"].as_text());
  return [=](AlignedText& text) { text.replace(pattern(text.text()), content); };
}

}  // namespace

Normalizer make_normalizer(const json::Value& description) {
  if (description.is_null()) return [](AlignedText&) {};
  const std::string& type = description["type"].as_text();
  if (type == "Sequence") return make_sequence(description);
  if (type == "BertNormalizer") return make_bert(description);
  if (type == "NFD") return [](AlignedText& text) { normalize_unicode(text, false, false); };
  if (type == "NFKD") return [](AlignedText& text) { normalize_unicode(text, true, false); };
  if (type == "NFC") return [](AlignedText& text) { normalize_unicode(text, false, true); };
  if (type == "NFKC") return [](AlignedText& text) { normalize_unicode(text, true, true); };
  if (type == "Lowercase") return lowercase;
  if (type == "Nmt") return normalize_nmt;
  if (type == "ByteLevel") return to_byte_characters;
  if (type == "Replace") return make_replace(description);
  if (type == "Precompiled") return make_precompiled(description["precompiled_charsmap"].as_text());
  if (type == "StripAccents") {
    return [](AlignedText& text) {
      text.filter([](char32_t character) { return !has(character, unicode::kCombiningMark); });
    };
  }
  if (type == "Strip") {
    const bool left = description["strip_left"].as_boolean(),
               right = description["strip_right"].as_boolean();
    return [=](AlignedText& text) { text.strip(left, right); };
  }
  if (type == "Prepend") {
    const std::u32string content = unicode::decode(description["prepend"].as_text());
    return [=](AlignedText& text) { text.prepend(content); };
  }
  throw UnsupportedPart("normalizer " + type);
}

}  // namespace edgedistil
