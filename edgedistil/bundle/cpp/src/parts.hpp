// The parts of a tokenizer, made from the sections of tokenizer.json.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "aligned_text.hpp"
#include "json.hpp"

namespace edgedistil {

// A part of tokenizer.json that this library cannot do; never approximated.
class UnsupportedPart : public std::runtime_error {
 public:
  explicit UnsupportedPart(const std::string& part)
      : std::runtime_error("the tokenizer has a part that this library cannot do: " + part) {}
};

struct Token {
  int64_t id;
  std::string value;
  Span span;  // bytes of the piece
};

// A part of the text: its tokens are those of an added token, or set by the model.
struct Piece {
  AlignedText text;
  std::optional<std::vector<Token>> tokens;
};

using Pieces = std::vector<Piece>;
using Normalizer = std::function<void(AlignedText&)>;
using PreTokenizer = std::function<void(Pieces&)>;
using Pattern = std::function<std::vector<Match>(std::string_view)>;

// Splits a text into tokens.
class Model {
 public:
  virtual ~Model() = default;
  virtual std::vector<Token> tokenize(const std::string& text) const = 0;
};

// Make a part; a null value makes one that does nothing. Throw UnsupportedPart.
Normalizer make_normalizer(const json::Value& description);
PreTokenizer make_pre_tokenizer(const json::Value& description);
std::unique_ptr<Model> make_model(json::Value description);

// Makes a pattern from {"String": …} or {"Regex": …}; of the latter those that encoders have.
Pattern make_pattern(const json::Value& description);

// Makes the pattern of byte-level tokenizers.
Pattern byte_level_pattern();

// Returns the table of SentencePiece's normalization, from its base64 text.
Normalizer make_precompiled(const std::string& base64);

// Writes each byte of the text as one printable character.
void to_byte_characters(AlignedText& text);

// Splits the pieces that have no tokens yet; empty parts are dropped.
void split_pieces(Pieces& pieces,
                  const std::function<std::vector<AlignedText>(AlignedText&)>& split);

}  // namespace edgedistil
