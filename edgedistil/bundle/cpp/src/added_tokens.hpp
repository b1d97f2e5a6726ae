// Tokens that are found in the text before the model sees it, such as [MASK].
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "parts.hpp"

namespace edgedistil {

struct AddedToken {
  int64_t id;
  std::string content, pattern;
  bool is_single_word, strips_left, strips_right, is_text;
};

// Finds added tokens in texts: the longest at the leftmost place.
class AddedTokens {
 public:
  // Reads those of tokenizer.json that are found in normalized text, or the others. Special ones
  // are left as text if `splits_special`.
  AddedTokens(const json::Value& description, const Normalizer& normalizer, bool normalized,
              bool splits_special);

  // Splits the pieces at the tokens.
  void split(Pieces& pieces) const;

 private:
  std::array<std::vector<AddedToken>, 256> by_first_byte_;
  bool is_empty_ = true;

  const AddedToken* find(std::string_view text, size_t place) const;
  void split_piece(const AlignedText& text, Pieces& parts) const;
};

}  // namespace edgedistil
