#include "sha256.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <vector>

namespace edgedistil {
namespace {

// The first 32 bits of the fraction of a root of a prime, as the standard defines its constants.
uint32_t fraction_bits(long double root) {
  return static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L);
}

struct Constants {
  std::array<uint32_t, 64> rounds{};
  std::array<uint32_t, 8> start{};

  Constants() {
    size_t index = 0;
    for (uint32_t number = 2; index < rounds.size(); ++number) {
      bool is_prime = true;
      for (uint32_t divisor = 2; divisor * divisor <= number; ++divisor) {
        is_prime = is_prime && number % divisor != 0;
      }
      if (!is_prime) continue;
      if (index < start.size()) start[index] = fraction_bits(std::sqrt((long double)number));
      rounds[index++] = fraction_bits(std::cbrt((long double)number));
    }
  }
};

const Constants& constants() {
  static const Constants values;
  return values;
}

uint32_t rotate(uint32_t value, int count) { return value >> count | value << (32 - count); }

using State = std::array<uint32_t, 8>;

void add_block(State& state, const unsigned char* block) {
  std::array<uint32_t, 64> w;
  for (size_t t = 0; t < 16; ++t) {
    w[t] = static_cast<uint32_t>(block[4 * t]) << 24 | block[4 * t + 1] << 16 |
           block[4 * t + 2] << 8 | block[4 * t + 3];
  }
  for (size_t t = 16; t < w.size(); ++t) {
    const uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
    const uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t t = 0; t < w.size(); ++t) {
    const uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const uint32_t first = h + s1 + ((e & f) ^ (~e & g)) + constants().rounds[t] + w[t];
    const uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const uint32_t second = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const State added = {a, b, c, d, e, f, g, h};
  for (size_t index = 0; index < state.size(); ++index) state[index] += added[index];
}

constexpr size_t kBlock = 64;

// Appends the mark of the end and the length in bits.
std::vector<unsigned char> last_blocks(const unsigned char* rest, size_t size, uint64_t total) {
  std::vector<unsigned char> bytes(rest, rest + size);
  bytes.push_back(0x80);
  while (bytes.size() % kBlock != kBlock - 8) bytes.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<unsigned char>(total * 8 >> shift));
  }
  return bytes;
}

}  // namespace

std::string sha256_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  State state = constants().start;
  std::vector<unsigned char> buffer(kBlock * 16384);
  uint64_t total = 0;
  size_t rest = 0;
  while (file) {
    file.read(reinterpret_cast<char*>(buffer.data()), static_cast<std::streamsize>(buffer.size()));
    const auto size = static_cast<size_t>(file.gcount());
    total += size;
    // Only the last portion is not a multiple of a block.
    for (rest = 0; rest + kBlock <= size; rest += kBlock) add_block(state, buffer.data() + rest);
    if (size < buffer.size()) {
      const auto last = last_blocks(buffer.data() + rest, size - rest, total);
      for (size_t at = 0; at < last.size(); at += kBlock) add_block(state, last.data() + at);
    }
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string digest;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) digest += kDigits[word >> shift & 15];
  }
  return digest;
}

}  // namespace edgedistil
