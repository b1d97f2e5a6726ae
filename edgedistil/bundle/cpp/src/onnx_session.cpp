#include "onnx_session.hpp"

#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

// The binary interface of onnxruntime: a table of functions whose order never changes. Declared
// here, because the packages that ship libonnxruntime do not ship its header.
extern "C" {
struct OrtApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)();
};
const OrtApiBase* OrtGetApiBase();
}

namespace edgedistil {
namespace {

using Status = void*;
using Handle = void*;

// Places in the table of version 4 and all later ones.
enum Slot {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kDisableCpuMemArena = 19,
  kSetSessionLogSeverityLevel = 22,
  kSetSessionGraphOptimizationLevel = 23,
  kSetIntraOpNumThreads = 24,
  kCreateTensorWithData = 49,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kReleaseEnv = 92,
  kReleaseStatus = 93,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTensorTypeAndShapeInfo = 99,
  kReleaseSessionOptions = 100,
  kAddSessionConfigEntry = 130,
};

constexpr uint32_t kApiVersion = 4;
constexpr const char* kExactSums = "session.x64quantprecision";
constexpr int kLogErrors = 3, kDeviceAllocator = 0, kDefaultMemory = 0, kInt64 = 7;

const void* const* api() {
  static const auto* table = static_cast<const void* const*>(OrtGetApiBase()->get_api(kApiVersion));
  if (table == nullptr) throw std::runtime_error("libonnxruntime is too old");
  return table;
}

// Returns a function of the table; the types are those of the C API.
template <typename Function>
Function at(Slot slot) {
  return reinterpret_cast<Function>(const_cast<void*>(api()[slot]));
}

void release(Slot slot, Handle handle) {
  if (handle != nullptr) at<void (*)(Handle)>(slot)(handle);
}

template <typename... Types, typename... Values>
void call(Slot slot, Status (*)(Types...), Values... values) {
  Status status = at<Status (*)(Types...)>(slot)(values...);
  if (status == nullptr) return;
  const std::string message = at<const char* (*)(Status)>(kGetErrorMessage)(status);
  release(kReleaseStatus, status);
  throw std::runtime_error("onnxruntime: " + message);
}

// The type of a function of the C API, as the second argument of `call`.
template <typename... Types>
using Signature = Status (*)(Types...);

int level_of(const std::string& name) {
  if (name == "ORT_DISABLE_ALL") return 0;
  if (name == "ORT_ENABLE_BASIC") return 1;
  return name == "ORT_ENABLE_EXTENDED" ? 2 : 99;
}

// Whether 8-bit products are summed in 32 bits, so that exact sums need no option.
bool sums_are_exact() {
#if defined(__x86_64__)
  constexpr unsigned kFeatures = 7, kAvx512Vnni = 1u << 11;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(kFeatures, 0, &a, &b, &c, &d) != 0 && (c & kAvx512Vnni) != 0;
#else
  return true;
#endif
}

// Owns a handle of onnxruntime.
struct Owned {
  Slot release_slot;
  Handle handle = nullptr;

  explicit Owned(Slot slot) : release_slot(slot) {}
  Owned(Owned&& other) noexcept : release_slot(other.release_slot), handle(other.handle) {
    other.handle = nullptr;
  }
  Owned(const Owned&) = delete;
  ~Owned() { release(release_slot, handle); }
};

Tensor read_tensor(Handle value) {
  Owned shape(kReleaseTensorTypeAndShapeInfo);
  call(kGetTensorTypeAndShape, Signature<Handle, Handle*>(), value, &shape.handle);
  size_t rank = 0;
  call(kGetDimensionsCount, Signature<Handle, size_t*>(), shape.handle, &rank);
  Tensor tensor;
  tensor.shape.resize(rank);
  call(kGetDimensions, Signature<Handle, int64_t*, size_t>(), shape.handle, tensor.shape.data(),
       rank);
  size_t size = 1;
  for (const int64_t length : tensor.shape) size *= static_cast<size_t>(length);
  void* data = nullptr;
  call(kGetTensorMutableData, Signature<Handle, void**>(), value, &data);
  const auto* values = static_cast<const float*>(data);
  tensor.values.assign(values, values + size);
  return tensor;
}

}  // namespace

struct OnnxSession::Handles {
  Owned environment{kReleaseEnv}, memory{kReleaseMemoryInfo}, session{kReleaseSession};

  void set_options(Handle options, const json::Value& advice, int threads) const {
    using Number = Signature<Handle, int>;
    const json::Value& attributes = advice["options"];
    if (threads < 0) threads = static_cast<int>(attributes["intra_op_num_threads"].as_integer());
    call(kSetIntraOpNumThreads, Number(), options, threads);
    call(kSetSessionLogSeverityLevel, Number(), options, kLogErrors);
    const std::string level = attributes["graph_optimization_level"].as_text();
    call(kSetSessionGraphOptimizationLevel, Number(), options, level_of(level));
    if (!attributes["enable_cpu_mem_arena"].as_boolean()) {
      call(kDisableCpuMemArena, Signature<Handle>(), options);
    }
    for (const auto& [key, value] : advice["config_entries"].members) {
      // Where it changes no result, it converts all weights: 14 ms and 5 MB of a 17 MB graph.
      if (key == kExactSums && sums_are_exact()) continue;
      call(kAddSessionConfigEntry, Signature<Handle, const char*, const char*>(), options,
           key.c_str(), value.as_text().c_str());
    }
  }
};

OnnxSession::OnnxSession(const std::string& path, const json::Value& options, int threads)
    : handles_(std::make_unique<Handles>()) {
  call(kCreateEnv, Signature<int, const char*, Handle*>(), kLogErrors, "edgedistil",
       &handles_->environment.handle);
  call(kCreateCpuMemoryInfo, Signature<int, int, Handle*>(), kDeviceAllocator, kDefaultMemory,
       &handles_->memory.handle);
  Owned session_options(kReleaseSessionOptions);
  call(kCreateSessionOptions, Signature<Handle*>(), &session_options.handle);
  handles_->set_options(session_options.handle, options, threads);
  call(kCreateSession, Signature<Handle, const char*, Handle, Handle*>(),
       handles_->environment.handle, path.c_str(), session_options.handle,
       &handles_->session.handle);
}

OnnxSession::~OnnxSession() {
  // The session is closed before the environment that it runs in.
  release(kReleaseSession, handles_->session.handle);
  handles_->session.handle = nullptr;
}

std::map<std::string, Tensor> OnnxSession::run(
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& inputs,
    const std::vector<std::string>& outputs) const {
  std::vector<const char*> input_names, output_names;
  std::vector<Owned> owned;
  std::vector<Handle> values, results(outputs.size(), nullptr);
  owned.reserve(inputs.size() + outputs.size());
  for (const auto& [name, data] : inputs) {
    const int64_t shape[] = {1, static_cast<int64_t>(data.size())};
    owned.emplace_back(kReleaseValue);
    call(kCreateTensorWithData,
         Signature<Handle, const void*, size_t, const int64_t*, size_t, int, Handle*>(),
         handles_->memory.handle, data.data(), data.size() * sizeof(int64_t), shape, size_t{2},
         kInt64, &owned.back().handle);
    values.push_back(owned.back().handle);
    input_names.push_back(name.c_str());
  }
  for (const std::string& name : outputs) output_names.push_back(name.c_str());
  using RunSignature = Signature<Handle, const void*, const char* const*, Handle*, size_t,
                                 const char* const*, size_t, Handle*>;
  call(kRun, RunSignature(), handles_->session.handle, nullptr, input_names.data(), values.data(),
       values.size(), output_names.data(), output_names.size(), results.data());
  std::map<std::string, Tensor> tensors;
  for (size_t index = 0; index < results.size(); ++index) {
    owned.emplace_back(kReleaseValue);
    owned.back().handle = results[index];
    tensors[outputs[index]] = read_tensor(results[index]);
  }
  return tensors;
}

}  // namespace edgedistil
