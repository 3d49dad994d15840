#include "tests/bench/bare_tower.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <torch/script.h>

namespace quern {
namespace {

// The encoder under test runs in the same process with one thread a pass.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads) { at::set_num_threads(threads); }
  ~ScopedThreads() { at::set_num_threads(1); }
};

torch::jit::Module Load(const std::string& file,
                        const BareTowerOptions& options) {
  torch::jit::Module module = torch::jit::load(file, at::kCPU);
  module.eval();
  if (options.bf16) module.to(at::kBFloat16);
  if (!options.optimized) return module;
  module = torch::jit::freeze(module);
  return torch::jit::optimize_for_inference(module);
}

}  // namespace

struct BareTower::Module {
  // Module::forward() is not const.
  torch::jit::Method forward;
};

BareTower::BareTower(const std::string& file, const BareTowerOptions& options)
    : options_(options),
      module_(new Module{Load(file, options).get_method("forward")}) {}

BareTower::~BareTower() = default;

void BareTower::Run(absl::Span<const Tokens> texts) const {
  const ScopedThreads threads(options_.threads);
  const c10::InferenceMode inference;
  size_t longest = 0;
  for (const Tokens& text : texts) {
    longest = std::max(longest, text.ids.size());
  }
  const auto rows = static_cast<int64_t>(texts.size());
  const auto columns = static_cast<int64_t>(longest);
  const at::Tensor ids = at::zeros({rows, columns}, at::kLong);
  const at::Tensor mask = at::zeros({rows, columns}, at::kLong);
  for (int64_t row = 0; row < rows; ++row) {
    const std::vector<int32_t>& from = texts[row].ids;
    std::copy(from.begin(), from.end(),
              ids.mutable_data_ptr<int64_t>() + row * columns);
    std::fill_n(mask.mutable_data_ptr<int64_t>() + row * columns, from.size(),
                1);
  }
  (void)module_->forward({ids, mask}).toTensor().to(at::kFloat);
}

void BareTower::Run(const PixelBatch& pictures) const {
  const ScopedThreads threads(options_.threads);
  const c10::InferenceMode inference;
  // from_blob() takes no const pointer; the tower does not write to its input.
  const at::Tensor pixels =
      at::from_blob(const_cast<float*>(pictures.values.data()),
                    {pictures.rows, pictures.height, pictures.width, 3},
                    at::kFloat)
          .permute({0, 3, 1, 2})
          .to(options_.bf16 ? at::kBFloat16 : at::kFloat);
  (void)module_->forward({pixels}).toTensor().to(at::kFloat);
}

}  // namespace quern
