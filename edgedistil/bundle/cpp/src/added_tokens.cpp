#include "added_tokens.hpp"

#include <algorithm>

#include "unicode.hpp"

namespace edgedistil {
namespace {

// Start of the last character before a place.
size_t previous_place(std::string_view text, size_t place) {
  do {
    --place;
  } while ((static_cast<unsigned char>(text[place]) & 0xC0) == 0x80);
  return place;
}

bool has_before(std::string_view text, size_t place, uint32_t property) {
  if (place == 0) return false;
  size_t at = previous_place(text, place);
  return unicode::has(unicode::next_character(text, at), property);
}

bool has_after(std::string_view text, size_t place, uint32_t property) {
  return place < text.size() && unicode::has(unicode::next_character(text, place), property);
}

size_t skip_spaces_left(std::string_view text, size_t place) {
  while (has_before(text, place, unicode::kWhitespace)) place = previous_place(text, place);
  return place;
}

size_t skip_spaces_right(std::string_view text, size_t place) {
  while (has_after(text, place, unicode::kWhitespace)) unicode::next_character(text, place);
  return place;
}

}  // namespace

AddedTokens::AddedTokens(const json::Value& description, const Normalizer& normalizer,
                         bool normalized, bool splits_special) {
  if (description.is_null()) return;
  for (const json::Value& row : description.as_items()) {
    if (row["normalized"].boolean_or(true) != normalized || row["content"].as_text().empty())
      continue;
    AddedToken token{row["id"].as_integer(),
                     row["content"].as_text(),
                     row["content"].as_text(),
                     row["single_word"].boolean_or(false),
                     row["lstrip"].boolean_or(false),
                     row["rstrip"].boolean_or(false),
                     splits_special && row["special"].boolean_or(false)};
    if (normalized) {
      AlignedText text(token.content);
      normalizer(text);
      token.pattern = text.text();
    }
    if (token.pattern.empty())
      throw UnsupportedPart("added token without characters: " + token.content);
    by_first_byte_[static_cast<unsigned char>(token.pattern[0])].push_back(std::move(token));
    is_empty_ = false;
  }
  for (auto& tokens : by_first_byte_) {
    std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) {
      return a.pattern.size() > b.pattern.size();
    });
  }
}

const AddedToken* AddedTokens::find(std::string_view text, size_t place) const {
  for (const AddedToken& token : by_first_byte_[static_cast<unsigned char>(text[place])]) {
    if (text.compare(place, token.pattern.size(), token.pattern) == 0) return &token;
  }
  return nullptr;
}

void AddedTokens::split_piece(const AlignedText& piece, Pieces& parts) const {
  const std::string_view text = piece.text();
  size_t done = 0;
  const auto append_text = [&](size_t end) {
    if (done < end) parts.push_back({piece.slice({done, end}), std::nullopt});
  };
  for (size_t place = 0; place < text.size();) {
    const AddedToken* token = find(text, place);
    if (token == nullptr) {
      ++place;
      continue;
    }
    size_t start = place, end = place + token->pattern.size();
    place = end;
    const bool is_in_word =
        has_before(text, start, unicode::kWord) || has_after(text, end, unicode::kWord);
    if (token->is_text || (token->is_single_word && is_in_word)) continue;
    if (token->strips_left) start = std::max(skip_spaces_left(text, start), done);
    if (token->strips_right) end = skip_spaces_right(text, end);
    append_text(start);
    AlignedText part = piece.slice({start, end});
    std::vector<Token> tokens{{token->id, part.text(), {0, end - start}}};
    parts.push_back({std::move(part), std::move(tokens)});
    done = end;
  }
  append_text(text.size());
}

void AddedTokens::split(Pieces& pieces) const {
  Pieces parts;
  for (Piece& piece : pieces) {
    if (piece.tokens) {
      parts.push_back(std::move(piece));
    } else if (is_empty_ && !piece.text.empty()) {
      parts.push_back({piece.text.slice({0, piece.text.text().size()}), std::nullopt});
    } else {
      split_piece(piece.text, parts);
    }
  }
  pieces = std::move(parts);
}

}  // namespace edgedistil
