// Compares this machine's results with conformance.jsonl of an export folder.
//
//     conformance MODEL_FOLDER [PRECISION ...] [--outputs COUNT]
//
// All texts are tokenized; with --outputs the graph runs on COUNT of them, evenly spread over the
// numbers of tokens, the shortest and the longest included, which is enough for an emulator.
//
// Exit codes: 0 all equal, 2 the folder is incomplete, 3 a string differs or a file was changed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <stdexcept>

#include "../src/json.hpp"
#include "../src/sha256.hpp"
#include "edgedistil/runner.hpp"

namespace {

using edgedistil::json::Value;

// Number of texts whose outputs are compared without --outputs.
constexpr size_t ALL = static_cast<size_t>(-1);

struct Difference : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void require_files(const std::string& folder, const Value& digests) {
  for (const auto& [name, digest] : digests.members) {
    if (edgedistil::sha256_of_file(folder + "/" + name) != digest.as_text()) {
      throw Difference(name + " was changed after the export: its sha256 differs");
    }
  }
}

std::string name_of(const Value& row) {
  std::string name;
  for (const Value& text : row["texts"].as_items()) name += "'" + text.as_text() + "' ";
  return name;
}

bool is_equal(const std::vector<int64_t>& numbers, const Value& expected) {
  bool equal = numbers.size() == expected.as_items().size();
  for (size_t index = 0; equal && index < numbers.size(); ++index) {
    equal = numbers[index] == expected.items[index].as_integer();
  }
  return equal;
}

edgedistil::Encoding compare_tokens(const edgedistil::Runner& runner, const Value& row) {
  const std::vector<Value>& texts = row["texts"].as_items();
  const edgedistil::Encoding encoding =
      texts.size() == 2 ? runner.encode_pair(texts[0].as_text(), texts[1].as_text())
                        : runner.encode(texts.at(0).as_text());
  const std::vector<Value>& tokens = row["tokens"].as_items();
  bool equal = is_equal(encoding.ids, tokens.at(0)) && is_equal(encoding.type_ids, tokens.at(1));
  for (size_t index = 0; equal && index < encoding.offsets.size(); ++index) {
    const auto& [first, last] = encoding.offsets[index];
    const std::vector<int64_t> span = {static_cast<int64_t>(first), static_cast<int64_t>(last)};
    equal = is_equal(span, tokens.at(2).as_items().at(index));
  }
  if (!equal) throw Difference(name_of(row) + "has other ids, types or offsets");
  return encoding;
}

// Returns the place of a stored value: they are evenly spread over the output.
size_t place_of(size_t index, size_t count, size_t size) {
  if (count < 2) return 0;
  // As numpy.linspace: a step times an index, truncated.
  const double step = static_cast<double>(size - 1) / static_cast<double>(count - 1);
  return index == count - 1 ? size - 1 : static_cast<size_t>(static_cast<double>(index) * step);
}

void compare_outputs(const edgedistil::Runner& runner, const edgedistil::Encoding& encoding,
                     const Value& row, const std::string& precision, const Value& tolerances) {
  const auto outputs = runner.run(encoding);
  for (const auto& [name, expected] : row["outputs"][precision].members) {
    const std::vector<float>& values = outputs.at(name).values;
    const std::vector<Value>& stored = expected.as_items();
    for (size_t index = 0; index < stored.size(); ++index) {
      const float value = values.at(place_of(index, stored.size(), values.size()));
      const double difference = std::abs(value - stored[index].as_number());
      if (!(difference <= tolerances[name].as_number())) {
        throw Difference(name_of(row) + "differs by " + std::to_string(difference) + " in " + name +
                         " at " + precision);
      }
    }
  }
}

// Returns the rows whose outputs are compared: `count` of those that have some, evenly spread over
// the rows in the order of their tokens, or all of them.
std::set<const Value*> select_rows(const std::vector<Value>& rows, const std::string& precision,
                                   size_t count) {
  std::vector<const Value*> sorted;
  for (const Value& row : rows) {
    if (!row["outputs"][precision].is_null()) sorted.push_back(&row);
  }
  if (count >= sorted.size()) return {sorted.begin(), sorted.end()};
  const auto tokens = [](const Value* row) { return (*row)["tokens"].as_items()[0].items.size(); };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const Value* left, const Value* right) {
    return tokens(left) < tokens(right);
  });
  std::set<const Value*> selected;
  for (size_t index = 0; index < count; ++index) {
    selected.insert(sorted[place_of(index, count, sorted.size())]);
  }
  return selected;
}

int check(const std::string& folder, const std::vector<std::string>& selected, size_t count) {
  std::ifstream file(folder + "/conformance.jsonl");
  std::string line;
  if (!std::getline(file, line)) throw std::runtime_error("cannot read conformance.jsonl");
  const Value head = edgedistil::json::parse(line);
  require_files(folder, head["files"]);
  std::vector<Value> rows;
  while (std::getline(file, line)) rows.push_back(edgedistil::json::parse(line));
  for (const auto& [precision, graph] : head["graphs"].members) {
    bool is_selected = selected.empty();
    for (const std::string& name : selected) is_selected = is_selected || name == precision;
    if (!is_selected) continue;
    edgedistil::RunnerOptions options;
    options.precision = precision;
    // Threads that wait for work would take the time of those that have some under an emulator.
    options.threads = 1;
    const edgedistil::Runner runner(folder, options);
    const std::set<const Value*> with_outputs = select_rows(rows, precision, count);
    for (const Value& row : rows) {
      const edgedistil::Encoding encoding = compare_tokens(runner, row);
      if (with_outputs.count(&row) == 0) continue;
      compare_outputs(runner, encoding, row, precision, head["tolerances"][precision]);
    }
    std::printf("%s: %zu strings are as expected", precision.c_str(), rows.size());
    if (count != ALL) std::printf(", outputs of %zu", with_outputs.size());
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) try {
  std::vector<std::string> names(arguments + 1, arguments + count);
  size_t outputs = ALL;
  const auto option = std::find(names.begin(), names.end(), "--outputs");
  if (option != names.end() && option + 1 != names.end()) {
    outputs = std::strtoul((option + 1)->c_str(), nullptr, 10);
    names.erase(option, option + 2);
  }
  if (names.empty() || outputs == 0 || names.back() == "--outputs") {
    std::fputs("usage: conformance MODEL_FOLDER [PRECISION ...] [--outputs COUNT]\n", stderr);
    return 2;
  }
  return check(names[0], std::vector<std::string>(names.begin() + 1, names.end()), outputs);
} catch (const Difference& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
