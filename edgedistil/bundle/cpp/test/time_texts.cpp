// Times the tokenizer on texts from standard input, a JSON list of texts a line.
//
//     time_texts TOKENIZER.json CALLS < texts.jsonl
//
// Writes one line a list: the median milliseconds of CALLS calls of one text, after some untimed
// ones.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>

#include "../src/json.hpp"
#include "edgedistil/tokenizer.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int WARMUP = 5;

double median_milliseconds(const edgedistil::Tokenizer& tokenizer,
                           const std::vector<edgedistil::json::Value>& texts, int calls) {
  std::vector<double> samples;
  for (int call = -WARMUP; call < calls; ++call) {
    const std::string& text = texts.at(static_cast<size_t>(call + WARMUP) % texts.size()).as_text();
    const Clock::time_point start = Clock::now();
    const edgedistil::Encoding encoding = tokenizer.encode(text);
    const std::chrono::duration<double, std::milli> elapsed = Clock::now() - start;
    if (call >= 0) samples.push_back(elapsed.count());
  }
  std::sort(samples.begin(), samples.end());
  return (samples[(samples.size() - 1) / 2] + samples[samples.size() / 2]) / 2;
}

}  // namespace

int main(int count, char** arguments) try {
  const int calls = count == 3 ? std::atoi(arguments[2]) : 0;
  if (calls < 1) {
    std::fputs("usage: time_texts TOKENIZER.json CALLS < texts.jsonl\n", stderr);
    return 2;
  }
  const edgedistil::Tokenizer tokenizer(arguments[1]);
  std::string line;
  while (std::getline(std::cin, line)) {
    const edgedistil::json::Value texts = edgedistil::json::parse(line);
    std::printf("%.7g\n", median_milliseconds(tokenizer, texts.as_items(), calls));
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
