// A reader of JSON, as large as tokenizer.json and the files of an export need it.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgedistil::json {

enum class Kind { null, boolean, number, string, array, object };

// A JSON value; the members of an object are in the order of the file.
class Value {
 public:
  Kind kind = Kind::null;
  bool boolean = false;
  double number = 0;
  std::string text;
  std::vector<Value> items;
  std::vector<std::pair<std::string, Value>> members;

  bool is_null() const { return kind == Kind::null; }

  // Returns a member, or a null value if there is none.
  const Value& operator[](std::string_view name) const;

  // Return the value; throw std::runtime_error if it is of another kind.
  const std::string& as_text() const;
  double as_number() const;
  long long as_integer() const;
  bool as_boolean() const;
  const std::vector<Value>& as_items() const;

  bool boolean_or(bool otherwise) const { return is_null() ? otherwise : as_boolean(); }
  std::string text_or(std::string otherwise) const { return is_null() ? otherwise : as_text(); }
};

// Reads a JSON text. Throws std::runtime_error with the byte at which it is malformed.
Value parse(std::string_view text);

// Reads a file as text. Throws std::runtime_error if it cannot be read.
std::string read_file(const std::string& path);

// Reads a JSON file; the message of the error names the file.
Value read(const std::string& path);

}  // namespace edgedistil::json
