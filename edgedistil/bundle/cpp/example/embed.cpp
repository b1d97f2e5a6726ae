// Prints the vector of a text, one number a line.
//
//     embed MODEL_FOLDER PRECISION TEXT
#include <cstdio>
#include <exception>

#include "edgedistil/runner.hpp"

int main(int count, char** arguments) try {
  if (count != 4) {
    std::fputs("usage: embed MODEL_FOLDER PRECISION TEXT\n", stderr);
    return 2;
  }
  edgedistil::RunnerOptions options;
  options.precision = arguments[2];
  const edgedistil::Runner runner(arguments[1], options);
  for (const float value : runner.embed(arguments[3])) std::printf("%.7g\n", value);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
