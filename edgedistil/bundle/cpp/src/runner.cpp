#include "edgedistil/runner.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "json.hpp"
#include "onnx_session.hpp"

namespace edgedistil {
namespace {

constexpr const char* kVectorOutput = "sentence_embedding";
constexpr const char* kNoVectors = "the model gives no sentence vectors";

// Returns the prompt of a side: the first of some names, or the default one.
std::string prompt_of(const json::Value& vector, const std::vector<std::string>& names) {
  const json::Value& prompts = vector["prompts"];
  for (const std::string& name : names) {
    if (!prompts[name].is_null()) return prompts[name].as_text();
  }
  return prompts[vector["default_prompt"].text_or("")].text_or("");
}

// Returns the path of the graph in a precision, below the folder.
std::string graph_of(const json::Value& session, const std::string& precision) {
  std::string available;
  for (const auto& [path, advice] : session["artefacts"].members) {
    if (advice["precision"].as_text() == precision) return path;
    available += available.empty() ? "" : ", ";
    available += advice["precision"].as_text();
  }
  throw std::runtime_error("the folder has no graph in " + precision + "; it has " + available);
}

void softmax(std::vector<double>& scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
}

}  // namespace

struct Runner::Parts {
  json::Value contract, session_file;
  std::string graph;
  Tokenizer tokenizer;
  OnnxSession session;
  Truncation truncation;
  std::vector<std::string> outputs;

  Parts(const std::string& folder, const RunnerOptions& options)
      : contract(json::read(folder + "/contract.json")),
        session_file(json::read(folder + "/session.json")),
        graph(graph_of(session_file, options.precision)),
        tokenizer(folder + "/tokenizer.json",
                  contract["tokenizer"]["splits_special_tokens"].as_boolean()),
        session(folder + "/" + graph, session_file["artefacts"][graph], options.threads) {
    const json::Value& rules = contract["tokenizer"];
    truncation.max_length = static_cast<size_t>(rules["max_length"].as_integer());
    truncation.side = rules["truncation_side"].as_text() == "left" ? Side::left : Side::right;
    for (const json::Value& output : contract["outputs"].as_items()) {
      outputs.push_back(output["name"].as_text());
    }
  }
};

Runner::Runner(const std::string& folder, const RunnerOptions& options)
    : parts_(std::make_unique<Parts>(folder, options)) {}
Runner::~Runner() = default;
Runner::Runner(Runner&&) noexcept = default;

Encoding Runner::encode(std::string_view text) const {
  return parts_->tokenizer.encode(text, parts_->truncation);
}

Encoding Runner::encode_pair(std::string_view first, std::string_view second) const {
  return parts_->tokenizer.encode_pair(first, second, parts_->truncation);
}

std::map<std::string, Tensor> Runner::run(const Encoding& encoding) const {
  std::vector<std::pair<std::string, std::vector<int64_t>>> inputs;
  for (const json::Value& input : parts_->contract["inputs"].as_items()) {
    const std::string& name = input["name"].as_text();
    if (name == "input_ids") {
      inputs.emplace_back(name, encoding.ids);
    } else if (name == "attention_mask") {
      inputs.emplace_back(name, std::vector<int64_t>(encoding.ids.size(), 1));
    } else if (name == "token_type_ids") {
      inputs.emplace_back(name, encoding.type_ids);
    } else {
      throw std::runtime_error("the graph has an unknown input " + name);
    }
  }
  return parts_->session.run(inputs, parts_->outputs);
}

Encoding Runner::encode_prompted(std::string_view text, Role role) const {
  const json::Value& vector = parts_->contract["sentence_vector"];
  if (vector.is_null()) throw std::runtime_error(kNoVectors);
  const std::vector<std::string> queries = {"query", "s2p_query"};
  const std::vector<std::string> documents = {"document", "passage", "corpus"};
  std::string prompted = prompt_of(vector, role == Role::query ? queries : documents);
  prompted += text;
  return encode(prompted);
}

std::vector<float> Runner::embed(std::string_view text, Role role) const {
  return embed(encode_prompted(text, role));
}

std::vector<float> Runner::embed(const Encoding& encoding) const {
  const auto& names = parts_->outputs;
  if (std::find(names.begin(), names.end(), kVectorOutput) == names.end()) {
    throw std::runtime_error(kNoVectors);
  }
  return run(encoding).at(kVectorOutput).values;
}

std::vector<std::pair<std::string, double>> Runner::classify(std::string_view text) const {
  const json::Value& contract = parts_->contract;
  if (contract["task"].as_text() != "text-classification") {
    throw std::runtime_error("the model is for " + contract["task"].as_text());
  }
  const std::vector<float> logits = run(encode(text)).at("logits").values;
  std::vector<double> scores(logits.begin(), logits.end());
  const std::string problem = contract["problem_type"].text_or("single_label_classification");
  if (problem == "single_label_classification") softmax(scores);
  if (problem == "multi_label_classification") {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
  }
  std::vector<std::pair<std::string, double>> labelled;
  const auto& labels = contract["labels"].as_items();
  for (size_t index = 0; index < scores.size(); ++index) {
    labelled.emplace_back(labels.at(index).as_text(), scores[index]);
  }
  return labelled;
}

}  // namespace edgedistil
