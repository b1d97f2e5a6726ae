#include "json.hpp"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "unicode.hpp"

namespace edgedistil::json {
namespace {

// Deeper nesting than any file of a model has, and far from the end of the stack.
constexpr int kMaxDepth = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value parse_document() {
    Value value = parse_value(0);
    skip_blanks();
    if (place_ != text_.size()) fail("text after the end of the document");
    return value;
  }

 private:
  std::string_view text_;
  size_t place_ = 0;

  [[noreturn]] void fail(const std::string& problem) const {
    throw std::runtime_error("malformed JSON at byte " + std::to_string(place_) + ": " + problem);
  }

  void skip_blanks() {
    while (place_ < text_.size() &&
           std::string_view(" \t\n\r").find(text_[place_]) != std::string_view::npos) {
      ++place_;
    }
  }

  char peek() {
    skip_blanks();
    if (place_ == text_.size()) fail("unexpected end");
    return text_[place_];
  }

  void expect(std::string_view word) {
    if (text_.substr(place_, word.size()) != word) fail("expected " + std::string(word));
    place_ += word.size();
  }

  bool accept(char character) {
    if (peek() != character) return false;
    ++place_;
    return true;
  }

  Value parse_value(int depth) {
    if (depth > kMaxDepth) fail("nested too deeply");
    Value value;
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        value.kind = Kind::string;
        value.text = parse_string();
        return value;
      case 'n':
        expect("null");
        return value;
      case 't':
        expect("true");
        break;
      case 'f':
        expect("false");
        value.kind = Kind::boolean;
        return value;
      default:
        return parse_number();
    }
    value.kind = Kind::boolean;
    value.boolean = true;
    return value;
  }

  Value parse_number() {
    const size_t start = place_;
    while (place_ < text_.size() &&
           std::string_view("+-0123456789.eE").find(text_[place_]) != std::string_view::npos) {
      ++place_;
    }
    const std::string digits(text_.substr(start, place_ - start));
    char* end = nullptr;
    Value value;
    value.kind = Kind::number;
    value.number = std::strtod(digits.c_str(), &end);
    if (digits.empty() || *end != '\0') fail("expected a value");
    return value;
  }

  Value parse_array(int depth) {
    Value value;
    value.kind = Kind::array;
    ++place_;
    if (accept(']')) return value;
    do {
      value.items.push_back(parse_value(depth + 1));
    } while (accept(','));
    if (!accept(']')) fail("expected , or ]");
    return value;
  }

  Value parse_object(int depth) {
    Value value;
    value.kind = Kind::object;
    ++place_;
    if (accept('}')) return value;
    do {
      if (peek() != '"') fail("expected a name");
      std::string name = parse_string();
      if (!accept(':')) fail("expected :");
      value.members.emplace_back(std::move(name), parse_value(depth + 1));
    } while (accept(','));
    if (!accept('}')) fail("expected , or }");
    return value;
  }

  std::string parse_string() {
    ++place_;
    std::string out;
    while (true) {
      const size_t stop = text_.find_first_of("\"\\", place_);
      if (stop == std::string_view::npos) fail("a string does not end");
      out.append(text_.substr(place_, stop - place_));
      place_ = stop + 1;
      if (text_[stop] == '"') return out;
      parse_escape(out);
    }
  }

  void parse_escape(std::string& out) {
    if (place_ == text_.size()) fail("unexpected end");
    const char escape = text_[place_++];
    constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const size_t index = kNames.find(escape);
    if (index != std::string_view::npos) {
      out += kValues[index];
    } else if (escape == 'u') {
      unicode::append_utf8(parse_code_point(), out);
    } else {
      fail("unknown escape");
    }
  }

  char32_t parse_code_point() {
    const char32_t first = parse_hexadecimal();
    if (first < 0xD800 || first > 0xDFFF) return first;
    expect("\\u");
    const char32_t second = parse_hexadecimal();
    if (first > 0xDBFF || second < 0xDC00 || second > 0xDFFF) fail("half of a surrogate pair");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  char32_t parse_hexadecimal() {
    const std::string digits(text_.substr(place_, 4));
    char* end = nullptr;
    const unsigned long code = std::strtoul(digits.c_str(), &end, 16);
    if (digits.size() != 4 || *end != '\0') fail("expected four hexadecimal digits");
    place_ += 4;
    return static_cast<char32_t>(code);
  }
};

void require(bool holds, const char* kind) {
  if (!holds) throw std::runtime_error(std::string("expected a JSON value of the kind ") + kind);
}

}  // namespace

const Value& Value::operator[](std::string_view name) const {
  static const Value absent;
  for (const auto& [member, value] : members) {
    if (member == name) return value;
  }
  return absent;
}

const std::string& Value::as_text() const {
  require(kind == Kind::string, "string");
  return text;
}

double Value::as_number() const {
  require(kind == Kind::number, "number");
  return number;
}

long long Value::as_integer() const { return static_cast<long long>(as_number()); }

bool Value::as_boolean() const {
  require(kind == Kind::boolean, "boolean");
  return boolean;
}

const std::vector<Value>& Value::as_items() const {
  require(kind == Kind::array, "array");
  return items;
}

Value parse(std::string_view text) {
  if (!unicode::is_valid(text)) throw std::runtime_error("malformed JSON: not UTF-8");
  return Parser(text).parse_document();
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) throw std::runtime_error("cannot read " + path);
  return content.str();
}

Value read(const std::string& path) {
  try {
    return parse(read_file(path));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace edgedistil::json
