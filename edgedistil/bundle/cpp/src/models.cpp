#include <algorithm>
#include <cstdio>
#include <limits>
#include <queue>
#include <unordered_map>

#include "parts.hpp"
#include "unicode.hpp"

namespace edgedistil {
namespace {

// Tokens and their ids.
class Vocabulary {
 public:
  // Takes the members of {"token": id, …}.
  explicit Vocabulary(json::Value description) : entries_(std::move(description.members)) {
    ids_.reserve(entries_.size());
    for (const auto& [token, id] : entries_) {
      ids_[token] = id.as_integer();
      tokens_[id.as_integer()] = token;
    }
  }

  std::optional<int64_t> find(std::string_view token) const {
    const auto place = ids_.find(token);
    return place == ids_.end() ? std::nullopt : std::optional(place->second);
  }

  int64_t require(const std::string& token) const {
    if (const auto id = find(token)) return *id;
    throw std::runtime_error("the vocabulary has no token " + token);
  }

  std::string token(int64_t id) const { return std::string(tokens_.at(id)); }

 private:
  // The views refer to its strings, which are not moved any more.
  std::vector<std::pair<std::string, json::Value>> entries_;
  std::unordered_map<std::string_view, int64_t> ids_;
  std::unordered_map<int64_t, std::string_view> tokens_;
};

// --- whole words
// ------------------------------------------------------------------------------------

class WordLevel : public Model {
 public:
  explicit WordLevel(json::Value description)
      : unknown_(description["unk_token"].as_text()), vocabulary_(description["vocab"]) {}

  std::vector<Token> tokenize(const std::string& text) const override {
    const auto id = vocabulary_.find(text);
    return {{id ? *id : vocabulary_.require(unknown_), id ? text : unknown_, {0, text.size()}}};
  }

 private:
  std::string unknown_;
  Vocabulary vocabulary_;
};

// --- WordPiece
// --------------------------------------------------------------------------------------

class WordPiece : public Model {
 public:
  explicit WordPiece(json::Value description)
      : unknown_(description["unk_token"].as_text()),
        prefix_(description["continuing_subword_prefix"].text_or("##")),
        max_characters_(static_cast<size_t>(description["max_input_chars_per_word"].as_integer())),
        vocabulary_(description["vocab"]) {}

  std::vector<Token> tokenize(const std::string& word) const override {
    if (unicode::decode(word).size() > max_characters_) return unknown(word);
    std::vector<Token> tokens;
    for (size_t start = 0; start < word.size(); start = tokens.back().span.second) {
      if (!append_longest(word, start, tokens)) return unknown(word);
    }
    return tokens;
  }

 private:
  std::string unknown_, prefix_;
  size_t max_characters_;
  Vocabulary vocabulary_;

  std::vector<Token> unknown(const std::string& word) const {
    return {{vocabulary_.require(unknown_), unknown_, {0, word.size()}}};
  }

  bool append_longest(const std::string& word, size_t start, std::vector<Token>& tokens) const {
    std::string candidate = (start > 0 ? prefix_ : "") + word.substr(start);
    const size_t offset = candidate.size() - (word.size() - start);
    while (candidate.size() > offset) {
      if (const auto id = vocabulary_.find(candidate)) {
        tokens.push_back({*id, candidate, {start, start + candidate.size() - offset}});
        return true;
      }
      // One character less, which may be several bytes.
      while ((static_cast<unsigned char>(candidate.back()) & 0xC0) == 0x80) candidate.pop_back();
      candidate.pop_back();
    }
    return false;
  }
};

// --- byte-pair encoding
// -----------------------------------------------------------------------------

struct Symbol {
  int64_t id;
  int previous, next;
  size_t size;  // bytes; 0 if it was merged into the symbol before it
};

// A chain of symbols that are merged pair by pair.
class Word {
 public:
  std::vector<Symbol> symbols;

  void append(int64_t id, size_t size) {
    const int place = static_cast<int>(symbols.size());
    if (place > 0) symbols.back().next = place;
    symbols.push_back({id, place - 1, -1, size});
  }

  // Joins a symbol with the next one.
  void merge(int place, int64_t id) {
    Symbol& left = symbols[place];
    Symbol& right = symbols[left.next];
    left.id = id;
    left.size += right.size;
    left.next = right.next;
    right.size = 0;
    if (left.next >= 0) symbols[left.next].previous = place;
  }
};

class BytePairs : public Model {
 public:
  explicit BytePairs(json::Value description)
      : vocabulary_(description["vocab"]),
        prefix_(description["continuing_subword_prefix"].text_or("")),
        suffix_(description["end_of_word_suffix"].text_or("")),
        unknown_(description["unk_token"].text_or("")),
        fuses_unknown_(description["fuse_unk"].boolean_or(false)),
        falls_back_to_bytes_(description["byte_fallback"].boolean_or(false)),
        ignores_merges_(description["ignore_merges"].boolean_or(false)) {
    const json::Value& dropout = description["dropout"];
    if (!dropout.is_null() && dropout.as_number() != 0)
      throw UnsupportedPart("random dropout of merges");
    read_merges(description["merges"]);
  }

  std::vector<Token> tokenize(const std::string& text) const override {
    if (ignores_merges_) {
      if (const auto id = vocabulary_.find(text)) return {{*id, text, {0, text.size()}}};
    }
    Word word = symbols_of(text);
    merge_all(word);
    std::vector<Token> tokens;
    size_t start = 0;
    for (const Symbol& symbol : word.symbols) {
      if (symbol.size == 0) continue;
      tokens.push_back({symbol.id, vocabulary_.token(symbol.id), {start, start + symbol.size}});
      start += symbol.size;
    }
    return tokens;
  }

 private:
  struct Rule {
    int rank;
    int64_t id;
  };

  struct Step {
    int place;
    Rule rule;
    // The queue begins with the lowest rank, and the leftmost place of it.
    bool operator<(const Step& other) const {
      return std::pair(rule.rank, place) > std::pair(other.rule.rank, other.place);
    }
  };

  Vocabulary vocabulary_;
  std::string prefix_, suffix_, unknown_;
  bool fuses_unknown_, falls_back_to_bytes_, ignores_merges_;
  std::unordered_map<uint64_t, Rule> rules_;

  static uint64_t key(int64_t left, int64_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
  }

  void read_merges(const json::Value& merges) {
    int rank = 0;
    for (const json::Value& merge : merges.as_items()) {
      std::string left, right;
      if (merge.kind == json::Kind::array) {
        left = merge.as_items().at(0).as_text();
        right = merge.as_items().at(1).as_text();
      } else {
        const size_t blank = merge.as_text().find(' ');
        if (blank == std::string::npos)
          throw std::runtime_error("a merge is not a pair: " + merge.text);
        left = merge.text.substr(0, blank);
        right = merge.text.substr(blank + 1);
      }
      const std::string joined = left + right.substr(std::min(prefix_.size(), right.size()));
      rules_[key(vocabulary_.require(left), vocabulary_.require(right))] = {
          rank++, vocabulary_.require(joined)};
    }
  }

  Word symbols_of(const std::string& text) const {
    Word word;
    size_t unknown_size = 0;
    const auto flush_unknown = [&] {
      if (unknown_size > 0) word.append(vocabulary_.require(unknown_), unknown_size);
      unknown_size = 0;
    };
    for (size_t place = 0; place < text.size();) {
      const size_t start = place;
      unicode::next_character(text, place);
      std::string symbol = (start > 0 ? prefix_ : "") + text.substr(start, place - start);
      if (place == text.size()) symbol += suffix_;
      if (const auto id = vocabulary_.find(symbol)) {
        flush_unknown();
        word.append(*id, place - start);
      } else if (!(falls_back_to_bytes_ && append_bytes(symbol, word)) && !unknown_.empty()) {
        if (!fuses_unknown_) flush_unknown();
        unknown_size += place - start;
      }
    }
    flush_unknown();
    return word;
  }

  bool append_bytes(const std::string& symbol, Word& word) const {
    std::vector<int64_t> ids;
    for (const char byte : symbol) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned char>(byte));
      const auto id = vocabulary_.find(name);
      if (!id) return false;
      ids.push_back(*id);
    }
    for (const int64_t id : ids) word.append(id, 1);
    return true;
  }

  const Rule* rule_at(const Word& word, int place) const {
    const int next = place < 0 ? -1 : word.symbols[place].next;
    if (next < 0) return nullptr;
    const auto rule = rules_.find(key(word.symbols[place].id, word.symbols[next].id));
    return rule == rules_.end() ? nullptr : &rule->second;
  }

  void merge_all(Word& word) const {
    std::priority_queue<Step> steps;
    const auto add = [&](int place) {
      if (const Rule* rule = rule_at(word, place)) steps.push({place, *rule});
    };
    for (int place = 0; place + 1 < static_cast<int>(word.symbols.size()); ++place) add(place);
    while (!steps.empty()) {
      const Step step = steps.top();
      steps.pop();
      // A pair whose symbols have been merged with others is not there any more.
      if (word.symbols[step.place].size == 0) continue;
      const Rule* rule = rule_at(word, step.place);
      if (rule == nullptr || rule->id != step.rule.id) continue;
      word.merge(step.place, rule->id);
      add(word.symbols[step.place].previous);
      add(step.place);
    }
  }
};

// --- Unigram
// ----------------------------------------------------------------------------------------

// Score of an unknown character, below the least likely piece.
constexpr double kUnknownPenalty = 10.0;

class Unigram : public Model {
 public:
  explicit Unigram(json::Value description)
      : unknown_(description["unk_id"].is_null() ? -1 : description["unk_id"].as_integer()),
        falls_back_to_bytes_(description["byte_fallback"].boolean_or(false)) {
    for (json::Value& entry : description_items(description)) {
      const double score = entry.as_items().at(1).as_number();
      pieces_.push_back(
          {std::move(entry.items[0].text), static_cast<int64_t>(pieces_.size()), score});
      least_score_ = std::min(least_score_, score);
    }
    if (unknown_ >= static_cast<int64_t>(pieces_.size()))
      throw std::runtime_error("unk_id is not in the vocabulary");
    // Of equal pieces the last one counts.
    std::stable_sort(pieces_.begin(), pieces_.end(),
                     [](const Entry& a, const Entry& b) { return a.text < b.text; });
  }

  std::vector<Token> tokenize(const std::string& text) const override {
    std::vector<Token> tokens;
    for (const Span& span : best_path(text))
      append_token(text.substr(span.first, span.second - span.first), span, tokens);
    return tokens;
  }

 private:
  struct Entry {
    std::string text;
    int64_t id;
    double score;
  };

  struct Node {
    int64_t id = 0;
    double score = 0;
    size_t start = std::string::npos;
  };

  int64_t unknown_;
  bool falls_back_to_bytes_;
  double least_score_ = std::numeric_limits<double>::infinity();
  std::vector<Entry> pieces_;  // in the order of their bytes

  static std::vector<json::Value>& description_items(json::Value& description) {
    for (auto& [name, value] : description.members) {
      if (name == "vocab") return value.items;
    }
    throw std::runtime_error("the model has no vocab");
  }

  // Calls a function for each piece that the text at `start` begins with, the shortest first.
  template <typename Visit>
  void visit_prefixes(const std::string& text, size_t start, Visit visit) const {
    auto first = pieces_.begin(), last = pieces_.end();
    for (size_t depth = 0; start + depth < text.size() && first != last; ++depth) {
      const auto byte = static_cast<unsigned char>(text[start + depth]);
      const auto at = [depth](const Entry& entry) {
        return entry.text.size() > depth ? static_cast<unsigned char>(entry.text[depth]) : -1;
      };
      first = std::lower_bound(first, last, byte,
                               [&](const Entry& entry, int value) { return at(entry) < value; });
      last = std::upper_bound(first, last, byte,
                              [&](int value, const Entry& entry) { return value < at(entry); });
      auto match = first;
      while (match != last && match->text.size() == depth + 1) ++match;
      if (match != first) visit(*std::prev(match), start + depth + 1);
    }
  }

  std::vector<Span> best_path(const std::string& text) const {
    std::vector<Node> ends(text.size() + 1);
    const auto improve = [&](size_t start, size_t end, int64_t id, double score) {
      Node& node = ends[end];
      const double total = score + ends[start].score;
      if (node.start == std::string::npos || total > node.score) node = {id, total, start};
    };
    for (size_t start = 0; start < text.size();) {
      size_t next = start;
      unicode::next_character(text, next);
      bool has_single = false;
      visit_prefixes(text, start, [&](const Entry& piece, size_t end) {
        improve(start, end, piece.id, piece.score);
        has_single = has_single || end == next;
      });
      if (!has_single) {
        if (unknown_ < 0) throw std::runtime_error("the model has no token for unknown characters");
        improve(start, next, unknown_, least_score_ - kUnknownPenalty);
      }
      start = next;
    }
    return spans_of(ends);
  }

  // Follows the best path back; unknown characters in a row become one part.
  std::vector<Span> spans_of(const std::vector<Node>& ends) const {
    std::vector<Span> spans;
    bool was_unknown = false;
    for (size_t end = ends.size() - 1; end > 0; end = ends[end].start) {
      const bool is_unknown = ends[end].id == unknown_;
      if (is_unknown && was_unknown) {
        spans.back().first = ends[end].start;
      } else {
        spans.emplace_back(ends[end].start, end);
      }
      was_unknown = is_unknown;
    }
    std::reverse(spans.begin(), spans.end());
    return spans;
  }

  const Entry* find(const std::string& text) const {
    auto place = std::upper_bound(
        pieces_.begin(), pieces_.end(), text,
        [](const std::string& value, const Entry& entry) { return value < entry.text; });
    if (place == pieces_.begin() || std::prev(place)->text != text) return nullptr;
    return &*std::prev(place);
  }

  void append_token(std::string text, Span span, std::vector<Token>& tokens) const {
    if (const Entry* entry = find(text)) {
      tokens.push_back({entry->id, std::move(text), span});
    } else if (!falls_back_to_bytes_ || !append_bytes(text, span, tokens)) {
      tokens.push_back({unknown_, std::move(text), span});
    }
  }

  bool append_bytes(const std::string& text, Span span, std::vector<Token>& tokens) const {
    std::vector<Token> bytes;
    for (const char byte : text) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned char>(byte));
      const Entry* entry = find(name);
      if (entry == nullptr) return false;
      bytes.push_back({entry->id, name, span});
    }
    tokens.insert(tokens.end(), bytes.begin(), bytes.end());
    return true;
  }
};

// Files of old versions do not name the kind of the model.
std::string kind_of(const json::Value& description) {
  if (!description["type"].is_null()) return description["type"].as_text();
  if (!description["merges"].is_null()) return "BPE";
  if (!description["unk_id"].is_null()) return "Unigram";
  return description["continuing_subword_prefix"].is_null() ? "WordLevel" : "WordPiece";
}

}  // namespace

std::unique_ptr<Model> make_model(json::Value description) {
  const std::string kind = kind_of(description);
  if (kind == "WordPiece") return std::make_unique<WordPiece>(std::move(description));
  if (kind == "BPE") return std::make_unique<BytePairs>(std::move(description));
  if (kind == "Unigram") return std::make_unique<Unigram>(std::move(description));
  if (kind == "WordLevel") return std::make_unique<WordLevel>(std::move(description));
  throw UnsupportedPart("model " + kind);
}

}  // namespace edgedistil
