// Reads a tokenizer.json and gives the token ids and offsets of Hugging Face's tokenizers library.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgedistil {

// Tokens of a text or a pair of texts.
struct Encoding {
  std::vector<int64_t> ids;
  std::vector<int64_t> type_ids;
  // Characters [first, second) of the text that a token comes from; (0, 0) for special tokens.
  std::vector<std::pair<size_t, size_t>> offsets;
  // Number of the text, 0 or 1; -1 for special tokens.
  std::vector<int> texts;
};

enum class Side { left, right };

// How long texts are cut.
struct Truncation {
  size_t max_length = 0;  // tokens, special tokens included; 0: not at all
  Side side = Side::right;
};

class Tokenizer {
 public:
  // Reads tokenizer.json. Throws std::runtime_error if the file is corrupt or has a part that this
  // library cannot do; the message names the part. With `splits_special_tokens`, the text "[MASK]"
  // is text, and not the special token.
  explicit Tokenizer(const std::string& path, bool splits_special_tokens = false);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Returns the tokens of a text in UTF-8. Throws std::runtime_error if it is not UTF-8.
  Encoding encode(std::string_view text, Truncation truncation = {}) const;

  // Returns the tokens of two texts; of those that are too long together the longer one is cut.
  Encoding encode_pair(std::string_view first, std::string_view second,
                       Truncation truncation = {}) const;

 private:
  struct Parts;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace edgedistil
