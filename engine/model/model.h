#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/media/image.h"
#include "engine/media/preprocess.h"
#include "engine/model/encoder.h"
#include "engine/text/tokenizer.h"

namespace quern {

// Number format of the towers' arithmetic. Embeddings come out as floats.
enum class Precision {
  kAuto,  // The fastest that keeps the quality; never what a model reports.
  kFp32,
  kBf16,  // bfloat16 weights and activations.
};

// "auto", "fp32" or "bf16".
absl::string_view PrecisionName(Precision precision);

// What a package says of itself. See model_package.h for the file format.
struct ModelInfo {
  std::string name;     // "quern-lite"
  std::string version;  // "1.0.0"
  std::string description;
  std::string licence;
  std::string
      fingerprint;  // Hex SHA-256 over the package; see model_package.h.
  int64_t dimension = 0;
  // "image.global", "image.dense", "text.global", "text.tokens", "match",
  // "moments".
  std::vector<std::string> capabilities;
  std::string device;  // Where it runs: "cpu" or "cuda:N".
  Precision precision = Precision::kFp32;
  int64_t memory_bytes = 0;  // Size of the parameters as they are held.
  int64_t max_tokens = 0;    // Longest text read; 0 without a text tower.

  bool Has(absl::string_view capability) const;
};

// A loaded model: tokeniser, preprocessing and towers as one. Immutable after
// Create(); thread-safe.
class Model {
 public:
  Model(ModelInfo info, ImagePreprocessing preprocessing,
        std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<Encoder> encoder)
      : info_(std::move(info)),
        preprocessing_(preprocessing),
        tokenizer_(std::move(tokenizer)),
        encoder_(std::move(encoder)) {}

  const ModelInfo& info() const { return info_; }
  const ImagePreprocessing& preprocessing() const { return preprocessing_; }
  const Encoder& encoder() const { return *encoder_; }

  struct TextEmbedding {
    std::vector<float> embedding;  // [dimension], L2-normalised.
    bool truncated = false;        // The text was longer than the tower reads.
    int64_t tokens = 0;            // Read, special tokens included.
  };

  // Errors: kFailedPrecondition naming the missing capability, else as Encoder.
  absl::StatusOr<TextEmbedding> EmbedText(absl::string_view text) const;

  // [dimension], L2-normalised.
  absl::StatusOr<std::vector<float>> EmbedImage(const Image& image) const;

 private:
  const ModelInfo info_;
  const ImagePreprocessing preprocessing_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<Encoder> encoder_;
};

}  // namespace quern
