#include "engine/model/torch_rewrite.h"

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <ATen/ops/equal.h>
#include <ATen/ops/mkldnn_reorder_conv2d_weight.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

namespace quern {
namespace {

using c10::IValue;
using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
using torch::jit::WithInsertPoint;

c10::Symbol Op(const char* name) { return c10::Symbol::fromQualString(name); }

c10::Symbol PackedConstant() { return Op("prim::ConstantMKLDNNTensor"); }

void CollectNodes(Block* block, const std::function<bool(Node*)>& wanted,
                  std::vector<Node*>& nodes) {
  for (Node* node : block->nodes()) {
    if (wanted(node)) nodes.push_back(node);
    for (Block* inner : node->blocks()) CollectNodes(inner, wanted, nodes);
  }
}

// Before anything changes, so that a pass may replace nodes.
std::vector<Node*> NodesOf(Graph& graph,
                           const std::function<bool(Node*)>& wanted) {
  std::vector<Node*> nodes;
  CollectNodes(graph.block(), wanted, nodes);
  return nodes;
}

// The constant tensor of a value; undefined if it is none.
at::Tensor TensorOf(const Value* value) {
  const std::optional<IValue> constant = torch::jit::toIValue(value);
  return constant.has_value() && constant->isTensor() ? constant->toTensor()
                                                      : at::Tensor();
}

bool IsConstant(const Value* value) {
  return torch::jit::toIValue(value).has_value();
}

// An operator that oneDNN applies to its result before it writes it.
struct Activation {
  std::string name = "none";
  std::vector<double> scalars;
  IValue algorithm;
};

std::optional<Activation> Clamp(const IValue& low, const IValue& high) {
  if (!low.isScalar() || !high.isScalar()) return std::nullopt;
  return Activation{
      .name = "hardtanh",
      .scalars = {low.toScalar().toDouble(), high.toScalar().toDouble()}};
}

std::optional<Activation> ActivationOf(const Node* node) {
  const c10::Symbol kind = node->kind();
  if (kind == Op("aten::relu") || kind == Op("aten::relu_")) {
    return Activation{.name = "relu"};
  }
  if (kind == Op("aten::relu6") || kind == Op("aten::relu6_")) {
    return Clamp(0, 6);
  }
  if (kind == Op("aten::silu") || kind == Op("aten::silu_")) {
    return Activation{.name = "swish"};
  }
  if (kind == Op("aten::gelu") && IsConstant(node->input(1))) {
    return Activation{.name = "gelu",
                      .algorithm = *torch::jit::toIValue(node->input(1))};
  }
  if ((kind == Op("aten::hardtanh") || kind == Op("aten::hardtanh_") ||
       kind == Op("aten::clamp")) &&
      IsConstant(node->input(1)) && IsConstant(node->input(2))) {
    return Clamp(*torch::jit::toIValue(node->input(1)),
                 *torch::jit::toIValue(node->input(2)));
  }
  return std::nullopt;
}

// Layouts of weights, by the weights and by what the layout depends on.
class PackedWeights {
 public:
  using Settings = std::vector<std::vector<int64_t>>;

  // The layout made before of equal weights, or what `pack` makes.
  at::Tensor Get(const at::Tensor& weights, const Settings& settings,
                 const std::function<at::Tensor()>& pack) {
    for (const Entry& entry : entries_) {
      if (entry.settings == settings &&
          entry.weights.sizes() == weights.sizes() &&
          at::equal(entry.weights, weights)) {
        return entry.packed;
      }
    }
    entries_.push_back({weights, settings, pack()});
    return entries_.back().packed;
  }

 private:
  struct Entry {
    at::Tensor weights;
    Settings settings;
    at::Tensor packed;
  };
  std::vector<Entry> entries_;
};

struct Convolution {
  at::Tensor weights;
  std::vector<Value*> layout;  // Padding, stride, dilation and groups.
  std::vector<int64_t> padding, stride, dilation;
  int64_t groups = 1;
};

std::optional<Convolution> ConvolutionOf(Node* node) {
  // (input, weight, bias, stride, padding, dilation, groups), or
  // (input, weight, bias, stride, padding, dilation, transposed,
  //  output padding, groups, flags...)
  const bool traced = node->kind() == Op("aten::_convolution");
  const size_t groups_at = traced ? 8 : 6;
  for (size_t i = 1; i <= groups_at; ++i) {
    if (!IsConstant(node->input(i))) return std::nullopt;
  }
  const auto at = [&](size_t i) {
    return *torch::jit::toIValue(node->input(i));
  };
  if (traced && at(6).toBool()) return std::nullopt;
  Convolution convolution{.weights = TensorOf(node->input(1))};
  if (!convolution.weights.defined() || convolution.weights.dim() != 4 ||
      !at(3).isIntList() || !at(4).isIntList() || !at(5).isIntList()) {
    return std::nullopt;
  }
  convolution.stride = at(3).toIntVector();
  convolution.padding = at(4).toIntVector();
  convolution.dilation = at(5).toIntVector();
  convolution.groups = at(groups_at).toInt();
  convolution.layout = {node->input(4), node->input(3), node->input(5),
                        node->input(groups_at)};
  return convolution;
}

Value* InsertPacked(Graph& graph, const at::Tensor& weights) {
  Node* node = graph.create(PackedConstant());
  node->t_(c10::attr::value, weights);
  graph.insertNode(node);
  return node->output();
}

// Puts `name`(input, packed, bias, layout..., activation) in the place of
// `node` and of the activation that is alone in reading it.
void Replace(Graph& graph, Node* node, const char* name,
             const at::Tensor& packed, const std::vector<Value*>& layout) {
  Node* last = node;
  Activation activation;
  if (node->output()->uses().size() == 1) {
    Node* user = node->output()->uses().front().user;
    if (user->owningBlock() == node->owningBlock()) {
      if (auto found = ActivationOf(user); found.has_value()) {
        activation = *std::move(found);
        last = user;
      }
    }
  }
  c10::impl::GenericList scalars(
      c10::OptionalType::create(c10::NumberType::get()));
  for (const double scalar : activation.scalars) scalars.push_back(scalar);

  const WithInsertPoint before(last);
  std::vector<Value*> inputs = {node->input(0), InsertPacked(graph, packed),
                                node->input(2)};
  inputs.insert(inputs.end(), layout.begin(), layout.end());
  inputs.push_back(graph.insertConstant(activation.name));
  inputs.push_back(graph.insertConstant(IValue(scalars)));
  inputs.push_back(graph.insertConstant(activation.algorithm));
  Node* fused = graph.insertNode(graph.create(Op(name), inputs));
  fused->output()->setType(c10::TensorType::get());
  last->output()->replaceAllUsesWith(fused->output());
  if (last != node) last->destroy();
  node->destroy();
}

void PackConvolutions(Graph& graph, PackedWeights& weights) {
  for (Node* node : NodesOf(graph, [](Node* candidate) {
         return candidate->kind() == Op("aten::conv2d") ||
                candidate->kind() == Op("aten::_convolution");
       })) {
    const std::optional<Convolution> convolution = ConvolutionOf(node);
    if (!convolution.has_value()) continue;
    const Convolution& c = *convolution;
    const at::Tensor packed = weights.Get(
        c.weights, {c.padding, c.stride, c.dilation, {c.groups}}, [&] {
          return at::mkldnn_reorder_conv2d_weight(
              c.weights.to_mkldnn(), c.padding, c.stride, c.dilation, c.groups);
        });
    Replace(graph, node, "mkldnn::_convolution_pointwise", packed, c.layout);
  }
}

at::Tensor PackLinear(const at::Tensor& weights) {
  // What oneDNN picks the layout for; other sizes take it as it is.
  constexpr int64_t kTypicalRows = 128;
  static const auto kReorder =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
          .typed<at::Tensor(const at::Tensor&, std::optional<c10::SymInt>)>();
  return kReorder.call(weights, kTypicalRows);
}

void PackLinears(Graph& graph, PackedWeights& weights) {
  for (Node* node : NodesOf(graph, [](Node* candidate) {
         return candidate->kind() == Op("aten::linear");
       })) {
    const at::Tensor weight = TensorOf(node->input(1));
    if (!weight.defined() || weight.dim() != 2 || !IsConstant(node->input(2))) {
      continue;
    }
    const at::Tensor packed =
        weights.Get(weight, {}, [&] { return PackLinear(weight); });
    Replace(graph, node, "mkldnn::_linear_pointwise", packed, {});
  }
}

}  // namespace

void RoundConstantsToBf16(const TorchGraphs& graphs) {
  std::unordered_map<const void*, at::Tensor> rounded;  // By original's bytes.
  for (const std::shared_ptr<Graph>& graph : graphs) {
    for (Node* node : NodesOf(*graph, [](Node* candidate) {
           return candidate->kind() == c10::prim::Constant;
         })) {
      const at::Tensor tensor = TensorOf(node->output());
      if (!tensor.defined() || tensor.scalar_type() != at::kFloat ||
          tensor.dim() == 0) {
        continue;
      }
      at::Tensor& copy = rounded[tensor.data_ptr()];
      if (!copy.defined() || copy.sizes() != tensor.sizes()) {
        copy = tensor.to(at::kBFloat16);
      }
      const WithInsertPoint before(node);
      node->output()->replaceAllUsesWith(graph->insertConstant(copy));
      node->destroy();
    }
  }
}

void PackWeights(const TorchGraphs& graphs) {
  PackedWeights weights;
  for (const std::shared_ptr<Graph>& graph : graphs) {
    PackConvolutions(*graph, weights);
    PackLinears(*graph, weights);
    torch::jit::EliminateDeadCode(graph);
  }
}

int64_t ConstantBytes(const TorchGraphs& graphs) {
  std::unordered_set<const void*> seen;
  int64_t bytes = 0;
  for (const std::shared_ptr<Graph>& graph : graphs) {
    for (Node* node : NodesOf(*graph, [](Node* candidate) {
           return candidate->kind() == c10::prim::Constant ||
                  candidate->kind() == PackedConstant();
         })) {
      const bool packed = node->kind() == PackedConstant();
      const at::Tensor tensor =
          packed ? node->t(c10::attr::value) : TensorOf(node->output());
      if (!tensor.defined()) continue;
      // A packed tensor has no storage of its own to look at.
      const void* identity =
          packed ? static_cast<const void*>(tensor.unsafeGetTensorImpl())
                 : tensor.storage().data();
      if (!seen.insert(identity).second) continue;
      bytes += tensor.numel() * static_cast<int64_t>(tensor.element_size());
    }
  }
  return bytes;
}

}  // namespace quern
