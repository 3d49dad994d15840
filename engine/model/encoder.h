#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/text/tokenizer.h"

namespace quern {

// Fitted and normalised pictures, ready for an image tower.
struct PixelBatch {
  int64_t rows = 0;
  int64_t height = 0;  // Pixels.
  int64_t width = 0;   // Pixels.
  // rows x height x width x 3, channels last, normalised.
  std::vector<float> values;
};

// A grid of cell features per picture, comparable with text by cosine.
struct DenseMaps {
  int64_t rows = 0;
  int64_t grid_height = 0;  // Cells.
  int64_t grid_width = 0;   // Cells.
  int64_t dimension = 0;
  // rows x grid_height x grid_width x dimension, not normalised.
  std::vector<float> values;
};

// What a moments head sees of a text in a video.
struct MomentPrediction {
  struct Span {
    float probability = 0;  // That it shows the text, in [0, 1].
    float centre = 0;       // Share of the video's length.
    float width = 0;        // Likewise.
  };
  std::vector<Span> spans;      // In no order; may overlap and leave [0, 1].
  std::vector<float> saliency;  // One value per frame; higher is better.
};

// How many rows at once the towers are best at on this machine. One thread
// each.
struct EncoderTuning {
  // Fewest rows of one forward pass whose throughput is within 2 % of the best;
  // texts of EncoderTuning::kTextTokens tokens. A longer batch is cut.
  int64_t image_rows = 1;
  int64_t text_rows = 1;
  // What a row of such a pass takes; zero: not measured.
  absl::Duration image_row;
  absl::Duration text_row;

  static constexpr int64_t kTextTokens = 16;  // A caption's length.
};

// The towers of one model: tensors in, embeddings out. A row's result does not
// depend on the other rows of its batch beyond float rounding. Thread-safe.
class Encoder {
 public:
  virtual ~Encoder() = default;

  // Width of every embedding.
  virtual int64_t dimension() const = 0;

  virtual EncoderTuning tuning() const { return {}; }

  // One L2-normalised row per text. An empty batch gives an empty matrix.
  // Errors, for all:
  //   kFailedPrecondition  the model has no such tower or output
  //   kInvalidArgument     sizes that the tower does not take
  //   kInternal            the tower threw, or gave a shape or a value (NaN,
  //                        infinity) that it must not give
  virtual absl::StatusOr<Matrix> EncodeText(
      absl::Span<const Tokens> texts) const = 0;

  // One L2-normalised row per picture.
  virtual absl::StatusOr<Matrix> EncodeImages(
      const PixelBatch& images) const = 0;

  // One grid per picture.
  virtual absl::StatusOr<DenseMaps> EncodeDense(
      const PixelBatch& images) const = 0;

  // One matrix per text: a row per token, special tokens included, comparable
  // with the cells of a grid by cosine, not normalised.
  virtual absl::StatusOr<std::vector<Matrix>> EncodeTokens(
      absl::Span<const Tokens> texts) const = 0;

  // One score per pair of a picture and the text at its place: the logit that
  // they match, 0 where the model cannot tell. Unlike the towers, the head sees
  // both at once. Few models have one; the others need not override it.
  // Errors as above; kInvalidArgument when there are not as many texts as
  // pictures.
  virtual absl::StatusOr<std::vector<float>> Match(
      const PixelBatch& /*images*/, absl::Span<const Tokens> /*texts*/) const {
    return absl::FailedPreconditionError("the model has no match head");
  }

  // Where in a video each text is: one prediction per text. `texts` are of
  // EncodeTokens(), `frames` of EncodeImages(): a row each, evenly spread over
  // the video, at least one. Few models have such a head; the others need not
  // override it. Errors as above.
  virtual absl::StatusOr<std::vector<MomentPrediction>> PredictMoments(
      absl::Span<const MatrixView> /*texts*/,
      const MatrixView& /*frames*/) const {
    return absl::FailedPreconditionError("the model has no moments head");
  }
};

}  // namespace quern
