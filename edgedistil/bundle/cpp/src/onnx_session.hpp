// A graph in onnxruntime, through its C API.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "edgedistil/runner.hpp"
#include "json.hpp"

namespace edgedistil {

class OnnxSession {
 public:
  // Loads a graph with the options that session.json has for it.
  // Throws std::runtime_error with onnxruntime's message.
  OnnxSession(const std::string& path, const json::Value& options, int threads);
  ~OnnxSession();

  // Runs the graph on one text; `inputs` have the shape (1, L).
  std::map<std::string, Tensor> run(
      const std::vector<std::pair<std::string, std::vector<int64_t>>>& inputs,
      const std::vector<std::string>& outputs) const;

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

}  // namespace edgedistil
