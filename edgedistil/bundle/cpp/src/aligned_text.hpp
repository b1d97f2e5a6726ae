// Text that remembers which bytes of the original each of its bytes comes from.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgedistil {

// Bytes [first, second) of a text.
using Span = std::pair<size_t, size_t>;

// A part of a text, and whether a pattern matches it.
struct Match {
  Span span;
  bool is_match;
};

// What happens to the matches of a pattern at which a text is split.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// A new character, and how it relates to those that it replaces: 0 replaces one, 1 is inserted,
// a negative number also removes as many following ones.
struct Change {
  char32_t character;
  int change;
};

// Normalized text, aligned with the original.
class AlignedText {
 public:
  explicit AlignedText(std::string_view original);

  const std::string& text() const { return text_; }
  bool empty() const { return text_.empty(); }
  // First byte of the original that this part begins at.
  size_t original_start() const { return original_start_; }

  // Returns the bytes of the original that bytes of this text come from.
  Span to_original(Span span) const;

  // Returns a part of the text.
  AlignedText slice(Span span) const;

  // Replaces all characters; `removed_first` of the old ones are dropped in front.
  void transform(const std::vector<Change>& changes, size_t removed_first = 0);

  // Keeps the characters for which a function returns true.
  void filter(const std::function<bool(char32_t)>& keep);

  // Replaces the matches of a pattern by a text.
  void replace(const std::vector<Match>& matches, const std::u32string& content);

  // Inserts text in front; does nothing to an empty text.
  void prepend(const std::u32string& content);

  // Removes white space at the ends.
  void strip(bool left, bool right);

  // Splits at the matches of a pattern.
  std::vector<AlignedText> split(std::vector<Match> matches, SplitBehavior behavior) const;

 private:
  AlignedText() = default;

  std::string text_;
  // Of each byte of the text: its bytes in the original.
  std::vector<Span> origins_;
  size_t original_start_ = 0;
};

// Returns the matches of single characters, with the text between them.
std::vector<Match> match_characters(std::string_view text,
                                    const std::function<bool(char32_t)>& test);

// Returns the same parts with the other meaning.
std::vector<Match> invert(std::vector<Match> matches);

}  // namespace edgedistil
