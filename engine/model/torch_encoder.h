#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "engine/model/encoder.h"
#include "engine/model/model.h"

namespace quern {

struct TorchEncoderOptions {
  // TorchScript files; empty: the model has no such tower. A module has a
  // `forward`, and the methods below take and give:
  //   image global  float [rows, 3, height, width] -> float [rows, dimension]
  //   image dense   the same -> float [rows, height / stride, width / stride,
  //                 dimension]
  //   text global   int64 ids [rows, tokens], padded with 0, and int64 mask of
  //                 that shape, 1 for a token and 0 for padding
  //                 -> float [rows, dimension]
  //   text tokens   the same -> float [rows, tokens, dimension]
  //   text packed   texts one behind the other: int64 ids, positions (a token's
  //                 place in its text) and segments (the number of its text; -1
  //                 for padding), each [tokens], and the int of texts, of which
  //                 the last may have no tokens -> float [texts, dimension],
  //                 the rows of `text global`
  //   match         pictures, ids and mask as above, a text per picture
  //                 -> float [rows], the logit that they match
  //   moments       float [1, tokens, dimension], a unit row per token of a
  //                 text, float mask [1, tokens] of ones, and float [1, frames,
  //                 dimension + 2], a unit row per frame with where it begins
  //                 and ends, i / frames and (i + 1) / frames
  //                 -> (logits [1, spans, 2], the first for, the other against;
  //                 spans [1, spans, 2], centre and width; saliency [1,
  //                 frames]), all float
  std::string image_file;
  std::string text_file;
  std::string match_file;
  std::string moments_file;
  std::string image_method = "forward";
  std::string dense_method;  // Empty: none.
  std::string text_method = "forward";
  std::string tokens_method;  // Empty: none.
  // Runs instead of `text_method` on a CPU; empty: none. Texts of unequal
  // lengths then need no padding.
  std::string packed_method;
  std::string match_method = "forward";
  std::string moments_method = "forward";
  // Longest text that the tower reads, in tokens. Shorter ones may be padded up
  // to it, so that there are fewer shapes to lay kernels out for; 0: they are
  // padded to the longest of their batch.
  int64_t max_tokens = 0;
  int64_t dimension = 0;       // >= 1.
  int64_t size_multiple = 1;   // Height and width of pictures divide by it.
  int64_t dense_stride = 1;    // Pixels per cell, both ways; >= 1.
  std::string device = "cpu";  // "cpu" or "cuda:N".
  // Not kAuto. kBf16 wants a CPU with bfloat16 arithmetic, see CpuHasBf16().
  Precision precision = Precision::kFp32;
  // Rows of one forward pass; 0: a guess, until Tune() measures.
  int64_t image_rows = 0;
  int64_t text_rows = 0;
};

// Whether this CPU multiplies bfloat16 numbers. Where it does not, they are
// slower than floats.
bool CpuHasBf16();

// Towers as TorchScript modules on LibTorch, in inference mode.
//
// A call runs on the thread that makes it and on no other: requests run in
// parallel, operators do not. Creating the first encoder sets that for the
// process, lets the allocator keep what a forward pass frees and bounds
// oneDNN's caches, by environment variables that are read at the first
// operator: it is no time for another thread to read the environment.
// Thread-safe but for Tune().
class TorchEncoder final : public Encoder {
 public:
  // Errors:
  //   kInvalidArgument     an option, with its value and what is allowed
  //   kFailedPrecondition  no such device, a method that a module lacks, or a
  //                        precision that the device lacks
  //   kDataLoss            a file that is no TorchScript module
  static absl::StatusOr<std::unique_ptr<TorchEncoder>> Create(
      TorchEncoderOptions options);

  ~TorchEncoder() override;

  // Times a few batch sizes for the rows that the options leave open, and takes
  // the best: 0.3 s, or three passes of a row where that is longer.
  // Pictures are of the size that will be asked for most, texts of the tokens
  // of `words` over and over. On a GPU it does nothing.
  void Tune(int64_t image_height, int64_t image_width, const Tokens& words);

  int64_t dimension() const override { return options_.dimension; }
  EncoderTuning tuning() const override { return tuning_; }
  // Size of the parameters as they are held.
  int64_t memory_bytes() const;

  absl::StatusOr<Matrix> EncodeText(
      absl::Span<const Tokens> texts) const override;
  absl::StatusOr<Matrix> EncodeImages(const PixelBatch& images) const override;
  absl::StatusOr<DenseMaps> EncodeDense(
      const PixelBatch& images) const override;
  absl::StatusOr<std::vector<Matrix>> EncodeTokens(
      absl::Span<const Tokens> texts) const override;
  absl::StatusOr<std::vector<float>> Match(
      const PixelBatch& images, absl::Span<const Tokens> texts) const override;
  absl::StatusOr<std::vector<MomentPrediction>> PredictMoments(
      absl::Span<const MatrixView> texts,
      const MatrixView& frames) const override;

 private:
  struct Towers;
  // Takes what one forward pass gave for its texts: `dimension` values each, or
  // `columns` times as many where there is a vector per token, padding
  // included.
  using TakePass = std::function<void(absl::Span<const Tokens> pass,
                                      const float* values, int64_t columns)>;

  TorchEncoder(TorchEncoderOptions options, std::unique_ptr<Towers> towers);

  absl::Status CheckPixels(const PixelBatch& images) const;
  absl::Status CheckFeatures(absl::string_view what,
                             const MatrixView& features) const;
  // Runs `method` over the texts in order, pass by pass.
  absl::Status RunTexts(absl::Span<const Tokens> texts,
                        const std::string& method, bool per_token,
                        const TakePass& take) const;
  // Likewise, `packed_method`.
  absl::Status RunPacked(absl::Span<const Tokens> texts,
                         const TakePass& take) const;

  const TorchEncoderOptions options_;
  const std::unique_ptr<const Towers> towers_;
  EncoderTuning tuning_;
};

}  // namespace quern
