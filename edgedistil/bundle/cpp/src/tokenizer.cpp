#include "edgedistil/tokenizer.hpp"

#include <algorithm>

#include "added_tokens.hpp"
#include "frame.hpp"
#include "parts.hpp"
#include "unicode.hpp"

namespace edgedistil {
namespace {

// Converts bytes of a text to characters.
class CharacterIndex {
 public:
  explicit CharacterIndex(std::string_view text) : numbers_(text.size()) {
    size_t number = 0;
    for (size_t place = 0; place < text.size(); ++number) {
      const size_t start = place;
      unicode::next_character(text, place);
      std::fill(numbers_.begin() + static_cast<std::ptrdiff_t>(start),
                numbers_.begin() + static_cast<std::ptrdiff_t>(place), number);
    }
  }

  // A span that begins at the end of the text stays as it is, as in tokenizers.
  Span convert(Span bytes) const {
    if (bytes.first >= numbers_.size()) return bytes;
    const size_t start = numbers_[bytes.first];
    if (bytes.second < numbers_.size()) return {start, numbers_[bytes.second]};
    return {start, numbers_[bytes.second - 1] + 1};
  }

 private:
  std::vector<size_t> numbers_;
};

// Cuts two texts to a number of tokens together, the longer one first.
void cut_pair(TextTokens& first, TextTokens& second, size_t length, Side side) {
  size_t shorter = std::min(first.ids.size(), second.ids.size());
  if (first.ids.size() + second.ids.size() <= length) return;
  size_t longer = shorter > length ? shorter : std::max(shorter, length - shorter);
  if (shorter + longer > length) {
    shorter = length / 2;
    longer = shorter + length % 2;
  }
  const bool first_is_longer = first.ids.size() > second.ids.size();
  first.cut(first_is_longer ? longer : shorter, side);
  second.cut(first_is_longer ? shorter : longer, side);
}

json::Value take(json::Value& description, std::string_view name) {
  for (auto& [member, value] : description.members) {
    if (member == name) return std::move(value);
  }
  return {};
}

}  // namespace

struct Tokenizer::Parts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<Model> model;
  AddedTokens plain, normalized;
  Frame frame;

  Parts(json::Value description, bool splits_special)
      : normalizer(make_normalizer(description["normalizer"])),
        pre_tokenizer(make_pre_tokenizer(description["pre_tokenizer"])),
        model(make_model(take(description, "model"))),
        plain(description["added_tokens"], normalizer, false, splits_special),
        normalized(description["added_tokens"], normalizer, true, splits_special),
        frame(description["post_processor"]) {}

  TextTokens tokens_of(std::string_view text) const {
    if (!unicode::is_valid(text)) throw std::runtime_error("the text is not UTF-8");
    Pieces pieces{{AlignedText(text), std::nullopt}};
    plain.split(pieces);
    for (Piece& piece : pieces) {
      if (!piece.tokens) normalizer(piece.text);
    }
    normalized.split(pieces);
    pre_tokenizer(pieces);

    TextTokens tokens;
    const CharacterIndex characters(text);
    for (const Piece& piece : pieces) {
      for (Token& token :
           piece.tokens ? std::vector<Token>(*piece.tokens) : model->tokenize(piece.text.text())) {
        tokens.ids.push_back(token.id);
        tokens.offsets.push_back(characters.convert(piece.text.to_original(token.span)));
        tokens.values.push_back(std::move(token.value));
      }
    }
    return tokens;
  }

  // Tokens that the texts may have, without the special ones.
  size_t room(Truncation truncation, bool pair) const {
    const size_t special = frame.special_count(pair);
    return truncation.max_length > special ? truncation.max_length - special : 0;
  }
};

Tokenizer::Tokenizer(const std::string& path, bool splits_special_tokens)
    : parts_(std::make_unique<Parts>(json::read(path), splits_special_tokens)) {}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Encoding Tokenizer::encode(std::string_view text, Truncation truncation) const {
  std::vector<TextTokens> texts{parts_->tokens_of(text)};
  if (truncation.max_length > 0) texts[0].cut(parts_->room(truncation, false), truncation.side);
  return parts_->frame.apply(std::move(texts));
}

Encoding Tokenizer::encode_pair(std::string_view first, std::string_view second,
                                Truncation truncation) const {
  std::vector<TextTokens> texts{parts_->tokens_of(first), parts_->tokens_of(second)};
  if (truncation.max_length > 0)
    cut_pair(texts[0], texts[1], parts_->room(truncation, true), truncation.side);
  return parts_->frame.apply(std::move(texts));
}

}  // namespace edgedistil
