// Runs a model that `edgedistil export` wrote: text in, vectors or scores out.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edgedistil/tokenizer.hpp"

namespace edgedistil {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

struct RunnerOptions {
  std::string precision = "fp32";
  int threads = -1;  // as session.json recommends; 0: all cores
};

// Side of a search, which selects the prompt that the model was trained with.
enum class Role { query, document };

// A model of an export folder, for one text at a time. Not for use by several threads at once.
class Runner {
 public:
  // Opens an export folder. Throws std::runtime_error if a file is missing or corrupt, the folder
  // has no such precision, or the tokenizer has a part that this library cannot do.
  explicit Runner(const std::string& folder, const RunnerOptions& options = {});
  ~Runner();
  Runner(Runner&&) noexcept;

  // Returns the tokens of a text, or of two, cut to the length of the model.
  Encoding encode(std::string_view text) const;
  Encoding encode_pair(std::string_view first, std::string_view second) const;

  // Returns every output of the graph for the tokens of one text; the first axis has length 1.
  std::map<std::string, Tensor> run(const Encoding& encoding) const;

  // Returns the tokens of a text with the prompt of its side before it.
  Encoding encode_prompted(std::string_view text, Role role = Role::document) const;

  // Returns the sentence vector of a text, or of its tokens. Throws std::runtime_error if the model gives none.
  std::vector<float> embed(std::string_view text, Role role = Role::document) const;
  std::vector<float> embed(const Encoding& encoding) const;

  // Returns labels and their probabilities, in the model's order.
  // Throws std::runtime_error if the model is not a text classifier.
  std::vector<std::pair<std::string, double>> classify(std::string_view text) const;

 private:
  struct Parts;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace edgedistil
