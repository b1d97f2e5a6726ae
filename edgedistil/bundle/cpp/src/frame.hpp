// The special tokens around texts, and the offsets without the blanks of byte-level tokens.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "edgedistil/tokenizer.hpp"
#include "json.hpp"

namespace edgedistil {

// Tokens of one text, before special tokens are added.
struct TextTokens {
  std::vector<int64_t> ids;
  std::vector<std::string> values;
  std::vector<std::pair<size_t, size_t>> offsets;

  void cut(size_t length, Side side);
};

class Frame {
 public:
  // Reads the post_processor of tokenizer.json. Throws UnsupportedPart.
  explicit Frame(const json::Value& description);

  // Returns the number of special tokens around one text, or around two.
  size_t special_count(bool pair) const;

  // Puts the special tokens around one text or two.
  Encoding apply(std::vector<TextTokens> texts) const;

 private:
  // A place of the template: special tokens, or a text if there are none.
  struct Place {
    std::vector<int64_t> ids;
    int text;
    int64_t type_id;
  };

  std::vector<Place> single_, pair_;
  bool trims_offsets_ = false, adds_space_ = false, has_template_ = false;

  void read(const json::Value& description);
  void read_sentence_pair(const json::Value& description, bool is_roberta);
  void read_trimming(const json::Value& description);
  static std::vector<Place> read_template(const json::Value& places, const json::Value& special);
  void trim(TextTokens& text) const;
};

}  // namespace edgedistil
