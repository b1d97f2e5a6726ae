// Encodes texts from standard input, one JSON string a line, for comparisons with tokenizers.
//
//     encode_lines TOKENIZER.json < texts.jsonl
//
// Writes one line a text: [[ids], [token types], [[first, last], …]].
#include <cstdio>
#include <exception>
#include <iostream>

#include "../src/json.hpp"
#include "edgedistil/tokenizer.hpp"

namespace {

template <typename Items, typename Write>
void write_list(const Items& items, Write write) {
  std::fputc('[', stdout);
  const char* separator = "";
  for (const auto& item : items) {
    std::fputs(separator, stdout);
    write(item);
    separator = ",";
  }
  std::fputc(']', stdout);
}

void write(const edgedistil::Encoding& encoding) {
  const auto number = [](int64_t value) { std::printf("%lld", static_cast<long long>(value)); };
  std::fputc('[', stdout);
  write_list(encoding.ids, number);
  std::fputc(',', stdout);
  write_list(encoding.type_ids, number);
  std::fputc(',', stdout);
  write_list(encoding.offsets,
             [](const auto& span) { std::printf("[%zu,%zu]", span.first, span.second); });
  std::fputs("]\n", stdout);
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 2) {
    std::fputs("usage: encode_lines TOKENIZER.json < texts.jsonl\n", stderr);
    return 2;
  }
  const edgedistil::Tokenizer tokenizer(arguments[1]);
  std::string line;
  while (std::getline(std::cin, line)) {
    const edgedistil::json::Value texts = edgedistil::json::parse(line);
    const bool is_pair = texts.kind == edgedistil::json::Kind::array;
    write(is_pair ? tokenizer.encode_pair(texts.items.at(0).as_text(), texts.items.at(1).as_text())
                  : tokenizer.encode(texts.as_text()));
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
