#pragma once

#include <cstdint>
#include <memory>
#include <string>

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
  //   match         pictures, ids and mask as above, a text per picture
  //                 -> float [rows], the logit that they match
  std::string image_file;
  std::string text_file;
  std::string match_file;
  std::string image_method = "forward";
  std::string dense_method;  // Empty: none.
  std::string text_method = "forward";
  std::string match_method = "forward";
  int64_t dimension = 0;       // >= 1.
  int64_t size_multiple = 1;   // Height and width of pictures divide by it.
  int64_t dense_stride = 1;    // Pixels per cell, both ways; >= 1.
  std::string device = "cpu";  // "cpu" or "cuda:N".
  // Not kAuto. kBf16 wants a CPU with bfloat16 arithmetic, see CpuHasBf16().
  Precision precision = Precision::kFp32;
};

// Whether this CPU multiplies bfloat16 numbers. Where it does not, they are
// slower than floats.
bool CpuHasBf16();

// Towers as TorchScript modules on LibTorch, in inference mode.
//
// A call runs on the thread that makes it and on no other: requests run in
// parallel, operators do not. Creating the first encoder sets that for the
// process, and lets the allocator keep what a forward pass frees.
// Thread-safe.
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

  int64_t dimension() const override { return options_.dimension; }
  // Size of the parameters as they are held.
  int64_t memory_bytes() const;

  absl::StatusOr<Matrix> EncodeText(
      absl::Span<const Tokens> texts) const override;
  absl::StatusOr<Matrix> EncodeImages(const PixelBatch& images) const override;
  absl::StatusOr<DenseMaps> EncodeDense(
      const PixelBatch& images) const override;
  absl::StatusOr<std::vector<float>> Match(
      const PixelBatch& images, absl::Span<const Tokens> texts) const override;

 private:
  struct Towers;

  TorchEncoder(TorchEncoderOptions options, std::unique_ptr<Towers> towers);

  absl::Status CheckPixels(const PixelBatch& images) const;

  const TorchEncoderOptions options_;
  const std::unique_ptr<const Towers> towers_;
};

}  // namespace quern
