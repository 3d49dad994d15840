#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace torch::jit {
struct Graph;
}  // namespace torch::jit

// Passes over the frozen graphs of one TorchScript module, for the CPU. They
// throw what LibTorch throws.

namespace quern {

using TorchGraphs = std::vector<std::shared_ptr<torch::jit::Graph>>;

// Rounds the constant float tensors of one dimension or more to bfloat16, so
// that the graph computes in that type what comes in as that type. Integers
// and scalars stay.
void RoundConstantsToBf16(const TorchGraphs& graphs);

// Replaces convolutions and linear layers of constant weights, each with the
// activation that follows, by oneDNN's kernels, whose weights are laid out
// once, here, rather than in each call. Graphs share the weights that are equal
// in them. The values are those of the original graph but for the order of
// additions.
void PackWeights(const TorchGraphs& graphs);

// Bytes of the tensors that the graphs hold, those they share counted once.
int64_t ConstantBytes(const TorchGraphs& graphs);

}  // namespace quern
