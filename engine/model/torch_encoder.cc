#include "engine/model/torch_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/passes/frozen_graph_optimizations.h>
#include <torch/csrc/jit/runtime/profiling_graph_executor_impl.h>
#include <torch/script.h>

#include "engine/base/allocator.h"
#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/model/text_passes.h"
#include "engine/model/torch_rewrite.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "libtorch";
constexpr size_t kMaxShownPath = 4096;

// Rows of one forward pass until they are measured. The bound keeps the
// activations of a long batch in tens of megabytes.
constexpr int64_t kCpuImageRows = 4;
constexpr int64_t kCpuTextRows = 16;
constexpr int64_t kGpuImageRows = 64;
constexpr int64_t kGpuTextRows = 256;

// oneDNN keeps the kernels that it made for a shape, half a megabyte each; the
// layer between keeps them once more per thread and kind of operator, so that
// those that oneDNN drops live on. With their own bounds of 1,024 a server of
// mixed texts grows by a gigabyte. A picture's pass needs 65 kernels; finding
// one again in oneDNN's cache costs nothing that could be measured.
void BoundKernelCaches() {
  constexpr int kKeep = 0;  // What the operator of the server set.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256", kKeep);
  setenv("LRU_CACHE_CAPACITY", "16", kKeep);
}

void PrepareProcess() {
  static const bool kPrepared = [] {
    at::set_num_threads(1);
    at::set_num_interop_threads(1);
    // Compiles at the first call instead of profiling it: half the warm-up, and
    // the profile would only serve fusers that CPUs do not use.
    torch::jit::getNumProfiledRuns() = 0;
    BoundKernelCaches();
    return true;
  }();
  static_cast<void>(kPrepared);
}

// OpenMP keeps the number of threads per calling thread.
void PrepareThread() {
  thread_local const bool kPrepared = [] {
    at::init_num_threads();
    return true;
  }();
  static_cast<void>(kPrepared);
}

absl::StatusOr<c10::Device> ParseDevice(const std::string& name) {
  absl::StatusOr<c10::Device> device =
      Guard(kLibrary, [&] { return c10::Device(name); });
  if (!device.ok() || !(device->is_cpu() || device->is_cuda())) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is ", Quoted(name), ": it must be cpu or cuda:N"));
  }
  if (!device->is_cuda()) return device;
  const auto devices =
      static_cast<int64_t>(at::hasCUDA() ? at::getNumGPUs() : 0);
  if (devices == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("device is ", Quoted(name),
                     ", but there is no CUDA device or this build has no CUDA: "
                     "set models.device to cpu"));
  }
  if (device->index() >= devices) {
    return absl::FailedPreconditionError(
        absl::StrCat("device is ", Quoted(name), ", but there are only ",
                     devices, " CUDA devices"));
  }
  return device;
}

int64_t ParameterBytes(const torch::jit::Module& module) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : module.parameters()) {
    bytes += static_cast<int64_t>(tensor.nbytes());
  }
  for (const at::Tensor& tensor : module.buffers()) {
    bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return bytes;
}

TorchGraphs GraphsOf(const torch::jit::Module& module,
                     const std::vector<std::string>& methods) {
  TorchGraphs graphs;
  for (const std::string& method : methods) {
    graphs.push_back(module.get_method(method).graph());
  }
  return graphs;
}

// A module whose weights have become constants of its methods, so that batch
// norms are folded into convolutions. The original's weights go with it.
torch::jit::Module Freeze(torch::jit::Module module,
                          const std::vector<std::string>& methods) {
  module.eval();
  // Exporters may have frozen it already.
  if (!module.hasattr("training")) return module;
  torch::jit::Module frozen = torch::jit::freeze_module(module, methods);
  for (std::shared_ptr<torch::jit::Graph>& graph : GraphsOf(frozen, methods)) {
    torch::jit::OptimizeFrozenGraph(graph);
  }
  return frozen;
}

struct Tower {
  torch::jit::Module module;
  int64_t bytes = 0;
};

Tower Optimize(torch::jit::Module module,
               const std::vector<std::string>& methods, c10::Device device,
               Precision precision) {
  Tower tower{.module = Freeze(std::move(module), methods)};
  const TorchGraphs graphs = GraphsOf(tower.module, methods);
  if (precision == Precision::kBf16) RoundConstantsToBf16(graphs);
  if (device.is_cpu()) PackWeights(graphs);
  // A module frozen by its exporter may keep parameters.
  tower.bytes = ParameterBytes(tower.module) + ConstantBytes(graphs);
  return tower;
}

absl::StatusOr<Tower> LoadTower(const std::string& file,
                                const std::vector<std::string>& methods,
                                c10::Device device, Precision precision) {
  const std::string shown = Quoted(file, kMaxShownPath);
  absl::StatusOr<torch::jit::Module> module =
      Guard(kLibrary, [&] { return torch::jit::load(file, device); });
  if (!module.ok()) {
    return absl::DataLossError(
        absl::StrCat(shown, " is damaged or no TorchScript module (",
                     module.status().message(),
                     "): export the package again, or run scripts/setup"));
  }
  for (const std::string& method : methods) {
    if (!module->find_method(method).has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat(shown, " has no method ", Quoted(method)));
    }
  }
  absl::StatusOr<Tower> tower = Guard(kLibrary, [&] {
    return Optimize(*std::move(module), methods, device, precision);
  });
  if (!tower.ok()) return Annotate(tower.status(), shown);
  // The original weights go back to the system, not to the allocator's stock.
  ReleaseFreeMemory();
  return tower;
}

std::string ShapeOf(const at::Tensor& tensor) {
  return absl::StrCat("[", absl::StrJoin(tensor.sizes(), ", "), "]");
}

// What a method gave, here: contiguous floats on the CPU.
absl::StatusOr<at::Tensor> TakeOutput(const std::string& method,
                                      const c10::IValue& output,
                                      const std::vector<int64_t>& shape) {
  if (!output.isTensor()) {
    return absl::InternalError(
        absl::StrCat("method ", Quoted(method), " of the tower gave ",
                     output.tagKind(), ", not a tensor"));
  }
  const at::Tensor tensor = output.toTensor();
  if (tensor.sizes() != c10::IntArrayRef(shape)) {
    return absl::InternalError(absl::StrCat(
        "method ", Quoted(method), " of the tower gave the shape ",
        ShapeOf(tensor), ": expected [", absl::StrJoin(shape, ", "), "]"));
  }
  return tensor.to(at::kCPU, at::kFloat).contiguous();
}

absl::StatusOr<at::Tensor> RunMethod(const torch::jit::Module& module,
                                     const std::string& method,
                                     std::vector<c10::IValue> inputs,
                                     const std::vector<int64_t>& shape) {
  return TakeOutput(method, module.get_method(method)(std::move(inputs)),
                    shape);
}

// `values` is rows x `width`; gives every row the length one.
absl::Status NormalizeRows(Matrix& matrix) {
  // Below it a direction is only rounding error.
  constexpr double kMinNorm = 1e-12;
  for (int64_t row = 0; row < matrix.rows(); ++row) {
    double squares = 0;
    for (const float value : matrix.row(row)) squares += double{value} * value;
    const double norm = std::sqrt(squares);
    if (!std::isfinite(norm) || norm < kMinNorm) {
      return absl::InternalError(
          absl::StrCat("the tower gave an embedding of length ", norm,
                       ": it must be finite and above zero"));
    }
    for (float& value : matrix.row(row)) {
      value = static_cast<float>(value / norm);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(absl::Span<const float> values) {
  if (std::all_of(values.begin(), values.end(),
                  [](float value) { return std::isfinite(value); })) {
    return absl::OkStatus();
  }
  return absl::InternalError("the tower gave a value that is not finite");
}

// Pictures [first, first + rows) as a tensor of the shape [rows, 3, height,
// width]. In memory the channels stay last: convolutions take 12 % less time.
at::Tensor PixelTensor(const PixelBatch& images, int64_t first, int64_t rows,
                       c10::Device device, at::ScalarType type) {
  const int64_t picture_values = images.height * images.width * 3;
  // from_blob() takes no const pointer; the towers do not write to their input.
  float* values =
      const_cast<float*>(images.values.data()) + first * picture_values;
  return at::from_blob(values, {rows, images.height, images.width, 3},
                       at::kFloat)
      .permute({0, 3, 1, 2})
      .to(device, type);
}

struct TokenTensors {
  at::Tensor ids;   // int64 [rows, longest], padded with 0.
  at::Tensor mask;  // int64 [rows, longest]; 1 for tokens.
};

// Rows and columns may be more than there are, see RoundUpSize(): a row beyond
// is one token 0.
TokenTensors PadTokens(absl::Span<const Tokens> texts, int64_t max_tokens,
                       c10::Device device) {
  int64_t columns = 0;
  for (const Tokens& text : texts) {
    columns = std::max(columns, static_cast<int64_t>(text.ids.size()));
  }
  auto rows = static_cast<int64_t>(texts.size());
  if (max_tokens > 0) {
    rows = RoundUpSize(rows);
    columns = std::max(columns, std::min(RoundUpSize(columns), max_tokens));
  }
  TokenTensors tensors{.ids = at::zeros({rows, columns}, at::kLong),
                       .mask = at::zeros({rows, columns}, at::kLong)};
  int64_t* ids = tensors.ids.mutable_data_ptr<int64_t>();
  int64_t* mask = tensors.mask.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    if (row < static_cast<int64_t>(texts.size())) {
      const std::vector<int32_t>& tokens = texts[row].ids;
      std::copy(tokens.begin(), tokens.end(), ids + row * columns);
      std::fill_n(mask + row * columns, tokens.size(), 1);
    } else {
      mask[row * columns] = 1;
    }
  }
  tensors.ids = tensors.ids.to(device);
  tensors.mask = tensors.mask.to(device);
  return tensors;
}

struct PackedTensors {
  at::Tensor ids;        // int64 [tokens], 0 beyond the last text.
  at::Tensor positions;  // Likewise.
  at::Tensor segments;   // int64 [tokens], -1 beyond the last text.
  int64_t texts = 0;     // Rows of the output.
};

// Tokens and texts may be more than there are, see RoundUpSize(): a text beyond
// has no tokens.
PackedTensors PackTokens(absl::Span<const Tokens> texts) {
  const int64_t tokens = RoundUpSize(TokensIn(texts));
  PackedTensors packed{
      .ids = at::zeros({tokens}, at::kLong),
      .positions = at::zeros({tokens}, at::kLong),
      .segments = at::full({tokens}, -1, at::kLong),
      .texts = RoundUpSize(static_cast<int64_t>(texts.size()))};
  int64_t* ids = packed.ids.mutable_data_ptr<int64_t>();
  int64_t* positions = packed.positions.mutable_data_ptr<int64_t>();
  int64_t* segments = packed.segments.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto length = static_cast<int64_t>(texts[i].ids.size());
    ids = std::copy(texts[i].ids.begin(), texts[i].ids.end(), ids);
    std::iota(positions, positions + length, 0);
    positions += length;
    segments = std::fill_n(segments, length, static_cast<int64_t>(i));
  }
  return packed;
}

absl::Status CheckTexts(absl::Span<const Tokens> texts) {
  for (const Tokens& text : texts) {
    if (text.ids.empty()) {
      return absl::InvalidArgumentError("a text has no tokens");
    }
  }
  return absl::OkStatus();
}

// [1, rows, columns + more], rows of length one (zeros stay), zeros behind.
at::Tensor UnitRows(const MatrixView& matrix, int64_t more) {
  const int64_t columns = matrix.columns + more;
  at::Tensor tensor = at::zeros({1, matrix.rows, columns}, at::kFloat);
  float* values = tensor.mutable_data_ptr<float>();
  for (int64_t row = 0; row < matrix.rows; ++row) {
    double squares = 0;
    for (const float value : matrix.row(row)) squares += double{value} * value;
    const double scale = squares > 0 ? 1 / std::sqrt(squares) : 0;
    for (int64_t i = 0; i < matrix.columns; ++i) {
      values[row * columns + i] =
          static_cast<float>(scale * matrix.row(row)[i]);
    }
  }
  return tensor;
}

// With the two columns of time.
at::Tensor FramesTensor(const MatrixView& frames) {
  at::Tensor tensor = UnitRows(frames, 2);
  float* values = tensor.mutable_data_ptr<float>();
  const auto count = static_cast<float>(frames.rows);
  for (int64_t row = 0; row < frames.rows; ++row) {
    float* time = values + row * (frames.columns + 2) + frames.columns;
    time[0] = static_cast<float>(row) / count;
    time[1] = static_cast<float>(row + 1) / count;
  }
  return tensor;
}

// Of one text. `output` is as TorchEncoderOptions says.
absl::StatusOr<MomentPrediction> TakeMoments(const std::string& method,
                                             const c10::IValue& output,
                                             int64_t frames) {
  constexpr size_t kParts = 3;
  if (!output.isTuple() || output.toTupleRef().elements().size() != kParts ||
      !output.toTupleRef().elements()[0].isTensor() ||
      output.toTupleRef().elements()[0].toTensor().dim() != 3) {
    return absl::InternalError(absl::StrCat(
        "method ", Quoted(method), " of the moments head gave a ",
        output.tagKind(),
        ": expected a tuple of the tensors logits [1, spans, 2], spans [1, "
        "spans, 2] and saliency [1, frames]"));
  }
  const auto& parts = output.toTupleRef().elements();
  const int64_t spans = parts[0].toTensor().size(1);
  QUERN_ASSIGN_OR_RETURN(const at::Tensor logits,
                         TakeOutput(method, parts[0], {1, spans, 2}));
  QUERN_ASSIGN_OR_RETURN(const at::Tensor places,
                         TakeOutput(method, parts[1], {1, spans, 2}));
  QUERN_ASSIGN_OR_RETURN(const at::Tensor saliency,
                         TakeOutput(method, parts[2], {1, frames}));
  const float* logit = logits.const_data_ptr<float>();
  const float* place = places.const_data_ptr<float>();
  const float* curve = saliency.const_data_ptr<float>();
  MomentPrediction prediction{.saliency = {curve, curve + frames}};
  std::vector<float> seen = prediction.saliency;
  for (int64_t i = 0; i < spans; ++i) {
    const float against = logit[2 * i + 1] - logit[2 * i];
    prediction.spans.push_back({.probability = 1 / (1 + std::exp(against)),
                                .centre = place[2 * i],
                                .width = place[2 * i + 1]});
    seen.insert(seen.end(), {against, place[2 * i], place[2 * i + 1]});
  }
  QUERN_RETURN_IF_ERROR(CheckFinite(seen));
  return prediction;
}

// CPU time of this thread.
absl::Duration ThreadTime() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

struct RowsFound {
  int64_t rows = 1;
  absl::Duration row;  // Time of one.
};

// The fewest rows of a pass that are within 2 % of the best throughput. Stops
// where larger passes lose or fail, and where the next size would take too
// long.
std::optional<RowsFound> FindBestRows(
    const std::function<absl::Status(int64_t)>& run) {
  constexpr int64_t kMostRows = 32;
  constexpr int kRuns = 2;  // Timed, after one that makes the kernels.
  constexpr double kAlike = 1.02;
  constexpr double kLosing = 1.1;
  constexpr absl::Duration kBudget = absl::Milliseconds(150);
  std::vector<RowsFound> found;
  absl::Duration best = absl::InfiniteDuration();
  absl::Duration spent;
  for (int64_t rows = 1; rows <= kMostRows; rows *= 2) {
    if (rows > 1 && spent + best * rows * (kRuns + 1) > kBudget) break;
    absl::Duration fastest = absl::InfiniteDuration();
    absl::Status status = run(rows);
    for (int i = 0; i < kRuns && status.ok(); ++i) {
      const absl::Duration start = ThreadTime();
      status = run(rows);
      fastest = std::min(fastest, ThreadTime() - start);
    }
    if (!status.ok()) break;
    found.push_back({.rows = rows, .row = fastest / rows});
    spent += fastest * (kRuns + 1);
    best = std::min(best, found.back().row);
    if (found.back().row > best * kLosing) break;
  }
  for (const RowsFound& size : found) {
    if (size.row <= best * kAlike) return size;
  }
  return std::nullopt;
}

absl::Status CheckOptions(const TorchEncoderOptions& options) {
  if (options.dimension < 1 || options.size_multiple < 1 ||
      options.dense_stride < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("dimension is ", options.dimension, ", size_multiple ",
                     options.size_multiple, ", dense_stride ",
                     options.dense_stride, ": each must be at least 1"));
  }
  if (options.max_tokens < 0 || options.image_rows < 0 ||
      options.text_rows < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", options.max_tokens, ", image_rows ",
                     options.image_rows, ", text_rows ", options.text_rows,
                     ": none may be negative"));
  }
  return absl::OkStatus();
}

absl::Status CheckPrecision(Precision precision, c10::Device device) {
  if (precision == Precision::kAuto) {
    return absl::InvalidArgumentError(
        "precision is auto: an encoder takes fp32 or bf16");
  }
  if (precision == Precision::kBf16 && device.is_cpu() && !CpuHasBf16()) {
    return absl::FailedPreconditionError(
        "precision is bf16, but this CPU has no bfloat16 arithmetic "
        "(avx512_bf16): set models.precision to auto or fp32");
  }
  return absl::OkStatus();
}

absl::Status NoTower(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("the model has no ", what));
}

}  // namespace

bool CpuHasBf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

struct TorchEncoder::Towers {
  c10::Device device = c10::Device(c10::kCPU);
  at::ScalarType pixel_type = at::kFloat;
  std::optional<Tower> image;
  std::optional<Tower> text;
  std::optional<Tower> match;
  std::optional<Tower> moments;
};

TorchEncoder::TorchEncoder(TorchEncoderOptions options,
                           std::unique_ptr<Towers> towers)
    : options_(std::move(options)), towers_(std::move(towers)) {
  const bool cpu = towers_->device.is_cpu();
  const auto rows = [](int64_t asked, int64_t guess) {
    return asked > 0 ? asked : guess;
  };
  tuning_.image_rows =
      rows(options_.image_rows, cpu ? kCpuImageRows : kGpuImageRows);
  tuning_.text_rows =
      rows(options_.text_rows, cpu ? kCpuTextRows : kGpuTextRows);
}

TorchEncoder::~TorchEncoder() = default;

absl::StatusOr<std::unique_ptr<TorchEncoder>> TorchEncoder::Create(
    TorchEncoderOptions options) {
  QUERN_RETURN_IF_ERROR(CheckOptions(options));
  QUERN_RETURN_IF_ERROR(Guard(kLibrary, [] { PrepareProcess(); }));
  auto towers = std::make_unique<Towers>();
  QUERN_ASSIGN_OR_RETURN(towers->device, ParseDevice(options.device));
  QUERN_RETURN_IF_ERROR(CheckPrecision(options.precision, towers->device));
  if (options.precision == Precision::kBf16) towers->pixel_type = at::kBFloat16;
  if (!options.image_file.empty()) {
    std::vector<std::string> methods = {options.image_method};
    if (!options.dense_method.empty()) methods.push_back(options.dense_method);
    QUERN_ASSIGN_OR_RETURN(
        towers->image, LoadTower(options.image_file, methods, towers->device,
                                 options.precision));
  }
  if (!options.text_file.empty()) {
    std::vector<std::string> methods = {options.text_method};
    // On a GPU the padding costs less than the attention between texts.
    if (!towers->device.is_cpu()) options.packed_method.clear();
    for (const std::string& method :
         {options.tokens_method, options.packed_method}) {
      if (!method.empty()) methods.push_back(method);
    }
    QUERN_ASSIGN_OR_RETURN(towers->text,
                           LoadTower(options.text_file, methods, towers->device,
                                     options.precision));
  }
  if (!options.match_file.empty()) {
    // Always in fp32: it judges few pairs, and finely.
    QUERN_ASSIGN_OR_RETURN(towers->match,
                           LoadTower(options.match_file, {options.match_method},
                                     towers->device, Precision::kFp32));
  }
  if (!options.moments_file.empty()) {
    QUERN_ASSIGN_OR_RETURN(
        towers->moments,
        LoadTower(options.moments_file, {options.moments_method},
                  towers->device, Precision::kFp32));
  }
  return std::unique_ptr<TorchEncoder>(
      new TorchEncoder(std::move(options), std::move(towers)));
}

void TorchEncoder::Tune(int64_t image_height, int64_t image_width,
                        const Tokens& words) {
  if (!towers_->device.is_cpu()) return;
  EncoderTuning tuned = tuning_;
  std::optional<RowsFound> found;
  if (towers_->image.has_value() && options_.image_rows == 0) {
    found = FindBestRows([&](int64_t rows) {
      tuning_.image_rows = rows;
      PixelBatch images{
          .rows = rows, .height = image_height, .width = image_width};
      images.values.resize(rows * 3 * image_height * image_width, 0.5F);
      return EncodeImages(images).status();
    });
    if (found.has_value()) {
      tuned.image_rows = found->rows;
      tuned.image_row = found->row;
    }
  }
  if (towers_->text.has_value() && options_.text_rows == 0 &&
      !words.ids.empty()) {
    Tokens text;
    const int64_t tokens =
        options_.max_tokens > 0
            ? std::min(options_.max_tokens, tuned.kTextTokens)
            : tuned.kTextTokens;
    for (int64_t i = 0; i < tokens; ++i) {
      text.ids.push_back(words.ids[i % words.ids.size()]);
    }
    found = FindBestRows([&](int64_t rows) {
      tuning_.text_rows = rows;
      return EncodeText(std::vector<Tokens>(rows, text)).status();
    });
    if (found.has_value()) {
      tuned.text_rows = found->rows;
      tuned.text_row = found->row;
    }
  }
  tuning_ = tuned;
}

int64_t TorchEncoder::memory_bytes() const {
  return (towers_->image.has_value() ? towers_->image->bytes : 0) +
         (towers_->text.has_value() ? towers_->text->bytes : 0) +
         (towers_->match.has_value() ? towers_->match->bytes : 0) +
         (towers_->moments.has_value() ? towers_->moments->bytes : 0);
}

absl::Status TorchEncoder::RunTexts(absl::Span<const Tokens> texts,
                                    const std::string& method, bool per_token,
                                    const TakePass& take) const {
  return Guard(kLibrary, [&]() -> absl::Status {
    PrepareThread();
    const c10::InferenceMode inference;
    while (!texts.empty()) {
      const auto pass = FirstPaddedPass(texts, tuning_.text_rows);
      const TokenTensors tokens =
          PadTokens(pass, options_.max_tokens, towers_->device);
      std::vector<int64_t> shape = {tokens.ids.size(0), dimension()};
      if (per_token) shape.insert(shape.begin() + 1, tokens.ids.size(1));
      QUERN_ASSIGN_OR_RETURN(const at::Tensor output,
                             RunMethod(towers_->text->module, method,
                                       {tokens.ids, tokens.mask}, shape));
      take(pass, output.const_data_ptr<float>(), tokens.ids.size(1));
      texts.remove_prefix(pass.size());
    }
    return absl::OkStatus();
  });
}

absl::Status TorchEncoder::RunPacked(absl::Span<const Tokens> texts,
                                     const TakePass& take) const {
  return Guard(kLibrary, [&]() -> absl::Status {
    PrepareThread();
    const c10::InferenceMode inference;
    while (!texts.empty()) {
      const auto pass = FirstPackedPass(texts, tuning_.text_rows);
      const PackedTensors packed = PackTokens(pass);
      QUERN_ASSIGN_OR_RETURN(
          const at::Tensor output,
          RunMethod(
              towers_->text->module, options_.packed_method,
              {packed.ids, packed.positions, packed.segments, packed.texts},
              {packed.texts, dimension()}));
      take(pass, output.const_data_ptr<float>(), 1);
      texts.remove_prefix(pass.size());
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<Matrix> TorchEncoder::EncodeText(
    absl::Span<const Tokens> texts) const {
  if (!towers_->text.has_value()) return NoTower("text tower");
  QUERN_RETURN_IF_ERROR(CheckTexts(texts));
  Matrix embeddings(static_cast<int64_t>(texts.size()), dimension());
  int64_t row = 0;
  const TakePass take = [&](absl::Span<const Tokens> pass, const float* values,
                            int64_t /*columns*/) {
    const auto rows = static_cast<int64_t>(pass.size());
    std::copy_n(values, rows * dimension(), embeddings.row(row).data());
    row += rows;
  };
  QUERN_RETURN_IF_ERROR(
      options_.packed_method.empty()
          ? RunTexts(texts, options_.text_method, /*per_token=*/false, take)
          : RunPacked(texts, take));
  QUERN_RETURN_IF_ERROR(NormalizeRows(embeddings));
  return embeddings;
}

absl::StatusOr<std::vector<Matrix>> TorchEncoder::EncodeTokens(
    absl::Span<const Tokens> texts) const {
  if (!towers_->text.has_value() || options_.tokens_method.empty()) {
    return NoTower("output per token");
  }
  QUERN_RETURN_IF_ERROR(CheckTexts(texts));
  std::vector<Matrix> features;
  features.reserve(texts.size());
  QUERN_RETURN_IF_ERROR(RunTexts(
      texts, options_.tokens_method, /*per_token=*/true,
      [&](absl::Span<const Tokens> pass, const float* values, int64_t columns) {
        for (const Tokens& text : pass) {
          const auto tokens = static_cast<int64_t>(text.ids.size());
          Matrix& matrix = features.emplace_back(tokens, dimension());
          std::copy_n(values, tokens * dimension(), matrix.row(0).data());
          values += columns * dimension();
        }
      }));
  for (Matrix& matrix : features) {
    QUERN_RETURN_IF_ERROR(
        CheckFinite({matrix.row(0).data(),
                     static_cast<size_t>(matrix.rows() * matrix.columns())}));
  }
  return features;
}

absl::Status TorchEncoder::CheckPixels(const PixelBatch& images) const {
  const int64_t multiple = options_.size_multiple;
  if (images.height < 1 || images.width < 1 || images.height % multiple != 0 ||
      images.width % multiple != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pictures are ", images.width, " x ", images.height,
        " pixels: each side must be a positive multiple of ", multiple));
  }
  const auto values = static_cast<int64_t>(images.values.size());
  if (images.rows < 0 ||
      values != images.rows * 3 * images.height * images.width) {
    return absl::InvalidArgumentError(
        absl::StrCat(images.rows, " pictures of ", images.height, " x ",
                     images.width, " x 3 have ", values, " values"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Matrix> TorchEncoder::EncodeImages(
    const PixelBatch& images) const {
  if (!towers_->image.has_value()) return NoTower("image tower");
  if (images.rows == 0) return Matrix(0, dimension());
  QUERN_RETURN_IF_ERROR(CheckPixels(images));
  Matrix embeddings(images.rows, dimension());
  const absl::Status status = Guard(kLibrary, [&]() -> absl::Status {
    PrepareThread();
    const c10::InferenceMode inference;
    for (int64_t first = 0; first < images.rows; first += tuning_.image_rows) {
      const int64_t rows = std::min(tuning_.image_rows, images.rows - first);
      QUERN_ASSIGN_OR_RETURN(
          const at::Tensor output,
          RunMethod(towers_->image->module, options_.image_method,
                    {PixelTensor(images, first, rows, towers_->device,
                                 towers_->pixel_type)},
                    {rows, dimension()}));
      std::copy_n(output.const_data_ptr<float>(), output.numel(),
                  embeddings.row(first).data());
    }
    return NormalizeRows(embeddings);
  });
  QUERN_RETURN_IF_ERROR(status);
  return embeddings;
}

absl::StatusOr<DenseMaps> TorchEncoder::EncodeDense(
    const PixelBatch& images) const {
  if (!towers_->image.has_value() || options_.dense_method.empty()) {
    return NoTower("dense image output");
  }
  DenseMaps maps{.rows = images.rows, .dimension = dimension()};
  if (images.rows == 0) return maps;
  QUERN_RETURN_IF_ERROR(CheckPixels(images));
  maps.grid_height = images.height / options_.dense_stride;
  maps.grid_width = images.width / options_.dense_stride;
  maps.values.reserve(maps.rows * maps.grid_height * maps.grid_width *
                      maps.dimension);
  const absl::Status status = Guard(kLibrary, [&]() -> absl::Status {
    PrepareThread();
    const c10::InferenceMode inference;
    for (int64_t first = 0; first < images.rows; first += tuning_.image_rows) {
      const int64_t rows = std::min(tuning_.image_rows, images.rows - first);
      QUERN_ASSIGN_OR_RETURN(
          const at::Tensor output,
          RunMethod(towers_->image->module, options_.dense_method,
                    {PixelTensor(images, first, rows, towers_->device,
                                 towers_->pixel_type)},
                    {rows, maps.grid_height, maps.grid_width, dimension()}));
      const float* values = output.const_data_ptr<float>();
      maps.values.insert(maps.values.end(), values, values + output.numel());
    }
    return CheckFinite(maps.values);
  });
  QUERN_RETURN_IF_ERROR(status);
  return maps;
}

absl::StatusOr<std::vector<float>> TorchEncoder::Match(
    const PixelBatch& images, absl::Span<const Tokens> texts) const {
  if (!towers_->match.has_value()) return NoTower("match head");
  if (static_cast<int64_t>(texts.size()) != images.rows) {
    return absl::InvalidArgumentError(absl::StrCat(
        texts.size(), " texts are to be matched with ", images.rows,
        " pictures: there must be a text per picture"));
  }
  std::vector<float> scores;
  if (texts.empty()) return scores;
  QUERN_RETURN_IF_ERROR(CheckPixels(images));
  QUERN_RETURN_IF_ERROR(CheckTexts(texts));
  scores.reserve(texts.size());
  const absl::Status status = Guard(kLibrary, [&]() -> absl::Status {
    PrepareThread();
    const c10::InferenceMode inference;
    const int64_t most_rows = tuning_.image_rows;
    for (int64_t first = 0; first < images.rows; first += most_rows) {
      const int64_t rows = std::min(most_rows, images.rows - first);
      const TokenTensors tokens =
          PadTokens(texts.subspan(first, rows), 0, towers_->device);
      QUERN_ASSIGN_OR_RETURN(
          const at::Tensor output,
          RunMethod(
              towers_->match->module, options_.match_method,
              {PixelTensor(images, first, rows, towers_->device, at::kFloat),
               tokens.ids, tokens.mask},
              {rows}));
      const float* values = output.const_data_ptr<float>();
      scores.insert(scores.end(), values, values + output.numel());
    }
    return CheckFinite(scores);
  });
  QUERN_RETURN_IF_ERROR(status);
  return scores;
}

absl::StatusOr<std::vector<MomentPrediction>> TorchEncoder::PredictMoments(
    absl::Span<const MatrixView> texts, const MatrixView& frames) const {
  if (!towers_->moments.has_value()) return NoTower("moments head");
  for (const MatrixView& rows : texts) {
    QUERN_RETURN_IF_ERROR(CheckFeatures("a text", rows));
  }
  QUERN_RETURN_IF_ERROR(CheckFeatures("the video", frames));
  std::vector<MomentPrediction> predictions;
  predictions.reserve(texts.size());
  const absl::Status status = Guard(kLibrary, [&]() -> absl::Status {
    PrepareThread();
    const c10::InferenceMode inference;
    const at::Tensor video = FramesTensor(frames).to(towers_->device);
    // One at a time: so no text depends on the padding of another.
    for (const MatrixView& text : texts) {
      const c10::IValue output = towers_->moments->module.get_method(
          options_.moments_method)(
          {UnitRows(text, 0).to(towers_->device),
           at::ones({1, text.rows}, at::kFloat).to(towers_->device), video});
      QUERN_ASSIGN_OR_RETURN(
          predictions.emplace_back(),
          TakeMoments(options_.moments_method, output, frames.rows));
    }
    return absl::OkStatus();
  });
  QUERN_RETURN_IF_ERROR(status);
  return predictions;
}

absl::Status TorchEncoder::CheckFeatures(absl::string_view what,
                                         const MatrixView& features) const {
  if (features.rows >= 1 && features.columns == dimension()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      what, " has ", features.rows, " x ", features.columns,
      " features: at least one row of ", dimension(), " is needed"));
}

}  // namespace quern
