// Prints the vector of a text, one number a line, and on standard error the times of its parts.
//
//     embed MODEL_FOLDER PRECISION TEXT [CALLS]
//
// With CALLS the times are medians of so many calls; otherwise they are those of the first one.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "edgedistil/runner.hpp"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> samples) {
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

}  // namespace

int main(int count, char** arguments) try {
  const int calls = count == 5 ? std::atoi(arguments[4]) : 1;
  if (count < 4 || count > 5 || calls < 1) {
    std::fputs("usage: embed MODEL_FOLDER PRECISION TEXT [CALLS]\n", stderr);
    return 2;
  }
  const Clock::time_point start = Clock::now();
  edgedistil::RunnerOptions options;
  options.precision = arguments[2];
  // One short text is too little work to divide, and threads take time to start.
  options.threads = 1;
  const edgedistil::Runner runner(arguments[1], options);
  const double loading = milliseconds_since(start);

  std::vector<float> vector;
  std::vector<double> tokenization, model;
  for (int call = 0; call < calls; ++call) {
    const Clock::time_point before = Clock::now();
    const edgedistil::Encoding encoding = runner.encode_prompted(arguments[3]);
    tokenization.push_back(milliseconds_since(before));
    const Clock::time_point encoded = Clock::now();
    vector = runner.embed(encoding);
    model.push_back(milliseconds_since(encoded));
  }
  for (const float value : vector) std::printf("%.7g\n", value);
  const double text = median(tokenization), total = text + median(model);
  std::fprintf(stderr, "loading %.1f ms, tokenization %.3f ms (%.1f%% of a call of %.2f ms)\n",
               loading, text, 100 * text / total, total);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
