#include "frame.hpp"

#include <algorithm>

#include "parts.hpp"
#include "unicode.hpp"

namespace edgedistil {
namespace {

// The character that stands for a blank in byte-level tokens.
constexpr char32_t kByteLevelBlank = 0x120;

bool is_blank(char32_t character) {
  return character == kByteLevelBlank || unicode::has(character, unicode::kWhitespace);
}

template <typename T>
void cut_items(std::vector<T>& items, size_t length, Side side) {
  if (items.size() <= length) return;
  if (side == Side::left) {
    items.erase(items.begin(), items.end() - static_cast<std::ptrdiff_t>(length));
  } else {
    items.erase(items.begin() + static_cast<std::ptrdiff_t>(length), items.end());
  }
}

}  // namespace

void TextTokens::cut(size_t length, Side side) {
  cut_items(ids, length, side);
  cut_items(values, length, side);
  cut_items(offsets, length, side);
}

Frame::Frame(const json::Value& description) {
  single_ = {{{}, 0, 0}};
  pair_ = {{{}, 0, 0}, {{}, 1, 1}};
  if (!description.is_null()) read(description);
}

void Frame::read(const json::Value& description) {
  const std::string& type = description["type"].as_text();
  if (type == "Sequence") {
    for (const json::Value& step : description["processors"].as_items()) read(step);
  } else if (type == "ByteLevel") {
    read_trimming(description);
  } else if (has_template_) {
    throw UnsupportedPart("two templates of special tokens");
  } else if (type == "TemplateProcessing") {
    single_ = read_template(description["single"], description["special_tokens"]);
    pair_ = read_template(description["pair"], description["special_tokens"]);
    has_template_ = true;
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    read_sentence_pair(description, type == "RobertaProcessing");
  } else {
    throw UnsupportedPart("post-processor " + type);
  }
}

void Frame::read_trimming(const json::Value& description) {
  if (!description["trim_offsets"].boolean_or(true)) return;
  if (has_template_ || trims_offsets_)
    throw UnsupportedPart("offsets trimmed behind special tokens, or twice");
  trims_offsets_ = true;
  adds_space_ = description["add_prefix_space"].boolean_or(true);
}

void Frame::read_sentence_pair(const json::Value& description, bool is_roberta) {
  const int64_t start = description["cls"].as_items().at(1).as_integer();
  const int64_t end = description["sep"].as_items().at(1).as_integer();
  if (is_roberta) read_trimming(description);
  const int64_t second = is_roberta ? 0 : 1;
  const std::vector<int64_t> between =
      is_roberta ? std::vector<int64_t>{end, end} : std::vector<int64_t>{end};
  single_ = {{{start}, -1, 0}, {{}, 0, 0}, {{end}, -1, 0}};
  pair_ = {{{start}, -1, 0}, {{}, 0, 0}, {between, -1, 0}, {{}, 1, second}, {{end}, -1, second}};
  has_template_ = true;
}

std::vector<Frame::Place> Frame::read_template(const json::Value& places,
                                               const json::Value& special) {
  std::vector<Place> out;
  for (const json::Value& place : places.as_items()) {
    const json::Value& token = place["SpecialToken"];
    if (token.is_null()) {
      const json::Value& text = place["Sequence"];
      out.push_back({{}, text["id"].as_text() == "A" ? 0 : 1, text["type_id"].as_integer()});
      continue;
    }
    Place row{{}, -1, token["type_id"].as_integer()};
    for (const json::Value& id : special[token["id"].as_text()]["ids"].as_items())
      row.ids.push_back(id.as_integer());
    out.push_back(std::move(row));
  }
  return out;
}

size_t Frame::special_count(bool pair) const {
  size_t count = 0;
  for (const Place& place : pair ? pair_ : single_) count += place.ids.size();
  return count;
}

void Frame::trim(TextTokens& text) const {
  for (size_t index = 0; index < text.ids.size(); ++index) {
    const std::u32string value = unicode::decode(text.values[index]);
    auto& [first, last] = text.offsets[index];
    size_t leading = 0, trailing = 0;
    while (leading < value.size() && is_blank(value[leading])) ++leading;
    while (trailing < value.size() && is_blank(value[value.size() - 1 - trailing])) ++trailing;
    // The blank that was put in front of the text is not part of it.
    const bool is_first = index == 0 || first == 0;
    if (leading == 1 && is_first && adds_space_) leading = 0;
    first = leading > 0 ? std::min(first + leading, last) : first;
    if (trailing > 0 && last >= trailing) last = std::max(last - trailing, first);
  }
}

Encoding Frame::apply(std::vector<TextTokens> texts) const {
  if (trims_offsets_) {
    for (TextTokens& text : texts) trim(text);
  }
  Encoding encoding;
  for (const Place& place : texts.size() > 1 ? pair_ : single_) {
    const bool is_text = place.text >= 0;
    const std::vector<int64_t>& ids =
        is_text ? texts[static_cast<size_t>(place.text)].ids : place.ids;
    encoding.ids.insert(encoding.ids.end(), ids.begin(), ids.end());
    encoding.type_ids.insert(encoding.type_ids.end(), ids.size(), place.type_id);
    encoding.texts.insert(encoding.texts.end(), ids.size(), place.text);
    if (is_text) {
      const auto& offsets = texts[static_cast<size_t>(place.text)].offsets;
      encoding.offsets.insert(encoding.offsets.end(), offsets.begin(), offsets.end());
    } else {
      encoding.offsets.insert(encoding.offsets.end(), ids.size(), {0, 0});
    }
  }
  return encoding;
}

}  // namespace edgedistil
