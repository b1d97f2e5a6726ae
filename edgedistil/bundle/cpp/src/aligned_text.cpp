#include "aligned_text.hpp"

#include <algorithm>

#include "unicode.hpp"

namespace edgedistil {
namespace {

// Joins each part with its predecessor if a rule says so.
template <typename Rule>
std::vector<Match> join(const std::vector<Match>& matches, Rule joins_previous) {
  std::vector<Match> joined;
  bool previous = false;
  for (const Match& part : matches) {
    if (joins_previous(part.is_match, previous) && !joined.empty()) {
      joined.back().span.second = part.span.second;
    } else {
      joined.push_back({part.span, false});
    }
    previous = part.is_match;
  }
  return joined;
}

// A match takes the part behind it; of several matches in a row only the last one does.
std::vector<Match> merge_with_next(const std::vector<Match>& matches) {
  std::vector<Match> joined;
  bool previous = false;
  for (auto part = matches.rbegin(); part != matches.rend(); ++part) {
    if (part->is_match && !previous && !joined.empty()) {
      joined.back().span.first = part->span.first;
    } else {
      joined.push_back({part->span, false});
    }
    previous = part->is_match;
  }
  std::reverse(joined.begin(), joined.end());
  return joined;
}

std::vector<Match> apply_behavior(std::vector<Match> matches, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::removed:
      return matches;
    case SplitBehavior::isolated:
      for (Match& part : matches) part.is_match = false;
      return matches;
    case SplitBehavior::contiguous:
      return join(matches, [](bool is_match, bool previous) { return is_match == previous; });
    case SplitBehavior::merged_with_previous:
      return join(matches, [](bool is_match, bool previous) { return is_match && !previous; });
    case SplitBehavior::merged_with_next:
      return merge_with_next(matches);
  }
  return matches;
}

}  // namespace

AlignedText::AlignedText(std::string_view original) : text_(original) {
  origins_.reserve(original.size());
  for (size_t place = 0; place < original.size();) {
    const size_t start = place;
    unicode::next_character(original, place);
    origins_.insert(origins_.end(), place - start, Span(start, place));
  }
}

Span AlignedText::to_original(Span span) const {
  // An empty part is at the same distance from the beginning, as in tokenizers.
  if (span.first >= span.second)
    return {original_start_ + span.first, original_start_ + span.second};
  return {origins_[span.first].first, origins_[span.second - 1].second};
}

AlignedText AlignedText::slice(Span span) const {
  AlignedText part;
  part.text_ = text_.substr(span.first, span.second - span.first);
  part.origins_.assign(origins_.begin() + span.first, origins_.begin() + span.second);
  part.original_start_ = to_original(span).first;
  return part;
}

void AlignedText::transform(const std::vector<Change>& changes, size_t removed_first) {
  if (text_.empty()) return;
  std::string text;
  std::vector<Span> origins;
  text.reserve(text_.size());
  origins.reserve(text_.size());
  size_t place = 0;
  const auto skip = [&](size_t characters) {
    while (characters-- > 0 && place < text_.size()) unicode::next_character(text_, place);
  };
  skip(removed_first);
  for (const auto& [character, change] : changes) {
    const bool is_inserted = change > 0;
    Span origin(original_start_, original_start_);
    if (!is_inserted) {
      origin = origins_[place];
    } else if (place > 0) {
      origin = origins_[place - 1];
    }
    origins.insert(origins.end(), unicode::utf8_size(character), origin);
    unicode::append_utf8(character, text);
    if (!is_inserted) skip(1 + static_cast<size_t>(-change));
  }
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void AlignedText::filter(const std::function<bool(char32_t)>& keep) {
  std::vector<Change> changes;
  size_t removed_first = 0;
  for (size_t place = 0; place < text_.size();) {
    const char32_t character = unicode::next_character(text_, place);
    if (keep(character)) {
      changes.push_back({character, 0});
    } else if (changes.empty()) {
      ++removed_first;
    } else {
      --changes.back().change;
    }
  }
  transform(changes, removed_first);
}

void AlignedText::replace(const std::vector<Match>& matches, const std::u32string& content) {
  std::string text;
  std::vector<Span> origins;
  for (const auto& [span, is_match] : matches) {
    if (!is_match) {
      text.append(text_, span.first, span.second - span.first);
      origins.insert(origins.end(), origins_.begin() + span.first, origins_.begin() + span.second);
      continue;
    }
    for (const char32_t character : content) {
      origins.insert(origins.end(), unicode::utf8_size(character), origins_[span.second - 1]);
      unicode::append_utf8(character, text);
    }
  }
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void AlignedText::prepend(const std::u32string& content) {
  if (text_.empty() || content.empty()) return;
  std::string inserted;
  for (const char32_t character : content) unicode::append_utf8(character, inserted);
  text_.insert(0, inserted);
  origins_.insert(origins_.begin(), inserted.size(), origins_.front());
}

void AlignedText::strip(bool left, bool right) {
  const std::u32string characters = unicode::decode(text_);
  const auto is_space = [](char32_t character) {
    return unicode::has(character, unicode::kWhitespace);
  };
  size_t first = 0, last = characters.size();
  while (left && first < last && is_space(characters[first])) ++first;
  while (right && last > first && is_space(characters[last - 1])) --last;
  if (first == 0 && last == characters.size()) return;
  std::vector<Change> changes;
  for (size_t index = first; index < last; ++index) changes.push_back({characters[index], 0});
  if (!changes.empty()) changes.back().change = -static_cast<int>(characters.size() - last);
  transform(changes, first);
}

std::vector<AlignedText> AlignedText::split(std::vector<Match> matches,
                                            SplitBehavior behavior) const {
  std::vector<AlignedText> parts;
  for (const auto& [span, is_removed] : apply_behavior(std::move(matches), behavior)) {
    if (!is_removed && span.first < span.second) parts.push_back(slice(span));
  }
  return parts;
}

std::vector<Match> match_characters(std::string_view text,
                                    const std::function<bool(char32_t)>& test) {
  std::vector<Match> matches;
  size_t unmatched = 0;
  for (size_t place = 0; place < text.size();) {
    const size_t start = place;
    if (!test(unicode::next_character(text, place))) continue;
    if (unmatched < start) matches.push_back({{unmatched, start}, false});
    matches.push_back({{start, place}, true});
    unmatched = place;
  }
  if (unmatched < text.size()) matches.push_back({{unmatched, text.size()}, false});
  return matches;
}

std::vector<Match> invert(std::vector<Match> matches) {
  for (Match& part : matches) part.is_match = !part.is_match;
  return matches;
}

}  // namespace edgedistil
