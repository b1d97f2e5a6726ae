// SentencePiece's normalization: a trie of byte strings (a Darts double array) and replacements.
#include <cstring>
#include <memory>

#include "parts.hpp"
#include "unicode.hpp"

namespace edgedistil {
namespace {

std::string decode_base64(const std::string& text) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char character : text) {
    if (character == '=') break;
    const size_t value = kAlphabet.find(character);
    if (value == std::string_view::npos)
      throw std::runtime_error("precompiled_charsmap is not base64");
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count & 0xFF);
    }
  }
  return bytes;
}

// Fields of a unit of the double array.
constexpr uint32_t kHasLeaf = 1u << 8, kLabelMask = 1u << 31 | 0xFF, kValueMask = (1u << 31) - 1;
constexpr uint32_t kHasLongOffset = 1u << 9;

class CharacterMap {
 public:
  explicit CharacterMap(const std::string& table) {
    uint32_t size = 0;
    if (table.size() < sizeof size) throw std::runtime_error("precompiled_charsmap is truncated");
    std::memcpy(&size, table.data(), sizeof size);
    if (size % sizeof(uint32_t) != 0 || size > table.size() - sizeof size) {
      throw std::runtime_error("precompiled_charsmap is truncated");
    }
    units_.resize(size / sizeof(uint32_t));
    std::memcpy(units_.data(), table.data() + sizeof size, size);
    replacements_ = table.substr(sizeof size + size);
  }

  // Returns the replacement of the shortest key that a text begins with.
  std::optional<std::string_view> find(std::string_view text) const {
    size_t node = offset(unit(0));
    for (const char byte : text) {
      const auto label = static_cast<unsigned char>(byte);
      if (label == 0) break;
      node ^= label;
      const uint32_t here = unit(node);
      if ((here & kLabelMask) != label) break;
      node ^= offset(here);
      if (here & kHasLeaf) return replacement(unit(node) & kValueMask);
    }
    return std::nullopt;
  }

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;

  uint32_t unit(size_t node) const {
    if (node >= units_.size()) throw std::runtime_error("precompiled_charsmap is corrupt");
    return units_[node];
  }

  static size_t offset(uint32_t unit) {
    return static_cast<size_t>(unit >> 10) << (unit & kHasLongOffset ? 8 : 0);
  }

  std::string_view replacement(size_t place) const {
    if (place > replacements_.size()) throw std::runtime_error("precompiled_charsmap is corrupt");
    return std::string_view(replacements_.c_str() + place);
  }
};

// Appends the replacement of some characters, with tokenizers' alignment.
void append_replacement(size_t replaced, std::string_view replacement,
                        std::vector<Change>& changes) {
  const std::u32string characters = unicode::decode(replacement);
  for (size_t index = 0; index < characters.size(); ++index) {
    changes.push_back({characters[index], index >= replaced ? 1 : 0});
  }
  if (characters.size() < replaced && !changes.empty()) {
    changes.back().change -= static_cast<int>(replaced - characters.size());
  }
}

// Longer clusters are replaced character by character.
constexpr size_t kMaxClusterBytes = 5;

bool append_cluster(const std::u32string& cluster, const CharacterMap& map,
                    std::vector<Change>& changes) {
  std::string bytes;
  for (const char32_t character : cluster) unicode::append_utf8(character, bytes);
  if (bytes.size() <= kMaxClusterBytes) {
    if (const auto replacement = map.find(bytes)) {
      append_replacement(cluster.size(), *replacement, changes);
      return true;
    }
  }
  bool is_changed = false;
  for (const char32_t character : cluster) {
    bytes.clear();
    unicode::append_utf8(character, bytes);
    if (const auto replacement = map.find(bytes)) {
      append_replacement(1, *replacement, changes);
      is_changed = true;
    } else {
      changes.push_back({character, 0});
    }
  }
  return is_changed;
}

}  // namespace

Normalizer make_precompiled(const std::string& base64) {
  const auto map = std::make_shared<CharacterMap>(decode_base64(base64));
  return [map](AlignedText& text) {
    const std::u32string characters = unicode::decode(text.text());
    std::vector<Change> changes;
    bool is_changed = false;
    size_t start = 0;
    for (const size_t end : unicode::grapheme_ends(characters)) {
      const std::u32string cluster = characters.substr(start, end - start);
      is_changed = append_cluster(cluster, *map, changes) || is_changed;
      start = end;
    }
    if (is_changed) text.transform(changes);
  };
}

}  // namespace edgedistil
