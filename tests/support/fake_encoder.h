#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

#include "engine/model/model.h"

// A model that needs no weights: words are hashed to directions, and pixels are
// embedded as the names of the colours they are near. So "red" finds red
// pictures, and texts that share words are near each other.

namespace quern {

// Splits at spaces and lowercases; an id is a hash of its word. Thread-safe.
class FakeTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kStart = 1;  // First id of every text.

  static int32_t IdOf(absl::string_view word) {
    uint32_t hash = 2166136261;  // FNV-1a.
    for (const char c : word) {
      hash = (hash ^ static_cast<uint8_t>(c)) * 16777619;
    }
    return static_cast<int32_t>(hash >> 1) | 2;
  }

  Tokens Tokenize(absl::string_view text) const override {
    Tokens tokens{.ids = {kStart}};
    for (const absl::string_view word :
         absl::StrSplit(absl::AsciiStrToLower(text), absl::ByAnyChar(" \t\n"),
                        absl::SkipEmpty())) {
      if (static_cast<int64_t>(tokens.ids.size()) == max_tokens()) {
        tokens.truncated = true;
        break;
      }
      tokens.ids.push_back(IdOf(word));
    }
    return tokens;
  }

  int64_t max_tokens() const override { return 16; }
};

// Takes pixels as they are, 0 to 255 (mean 0, deviation 1). Thread-safe.
class FakeEncoder final : public Encoder {
 public:
  // Both sides of a picture divide by it; also the pixels per cell of a grid.
  static constexpr int64_t kStride = 8;

  explicit FakeEncoder(int64_t dimension = 32) : dimension_(dimension) {}

  int64_t dimension() const override { return dimension_; }

  absl::StatusOr<Matrix> EncodeText(
      absl::Span<const Tokens> texts) const override {
    Matrix rows(static_cast<int64_t>(texts.size()), dimension_);
    for (int64_t i = 0; i < rows.rows(); ++i) {
      if (texts[i].ids.empty()) {
        return absl::InvalidArgumentError("a text has no tokens");
      }
      AddTokens(texts[i].ids, rows.row(i));
      Normalize(rows.row(i));
    }
    return rows;
  }

  absl::StatusOr<Matrix> EncodeImages(const PixelBatch& images) const override {
    absl::StatusOr<DenseMaps> maps = EncodeDense(images);
    if (!maps.ok()) return maps.status();
    Matrix rows(images.rows, dimension_);
    const int64_t cells = maps->grid_height * maps->grid_width;
    const float* cell = maps->values.data();
    for (int64_t i = 0; i < rows.rows(); ++i) {
      for (int64_t j = 0; j < cells * dimension_; ++j) {
        rows.row(i)[j % dimension_] += *cell++;
      }
      Normalize(rows.row(i));
    }
    return rows;
  }

  absl::StatusOr<DenseMaps> EncodeDense(
      const PixelBatch& images) const override {
    DenseMaps maps{.rows = images.rows, .dimension = dimension_};
    if (images.rows == 0) return maps;
    if (images.height < kStride || images.width < kStride ||
        images.height % kStride != 0 || images.width % kStride != 0 ||
        static_cast<int64_t>(images.values.size()) !=
            images.rows * 3 * images.height * images.width) {
      return absl::InvalidArgumentError("pictures of a size that is not taken");
    }
    maps.grid_height = images.height / kStride;
    maps.grid_width = images.width / kStride;
    for (int64_t row = 0; row < images.rows; ++row) {
      for (int64_t y = 0; y < maps.grid_height; ++y) {
        for (int64_t x = 0; x < maps.grid_width; ++x) {
          const std::vector<float> cell =
              EmbedColor(MeanColor(images, row, y, x));
          maps.values.insert(maps.values.end(), cell.begin(), cell.end());
        }
      }
    }
    return maps;
  }

  // A multiple of the cosine of the two embeddings.
  absl::StatusOr<std::vector<float>> Match(
      const PixelBatch& images, absl::Span<const Tokens> texts) const override {
    if (static_cast<int64_t>(texts.size()) != images.rows) {
      return absl::InvalidArgumentError("a text per picture is needed");
    }
    const absl::StatusOr<Matrix> text_rows = EncodeText(texts);
    if (!text_rows.ok()) return text_rows.status();
    const absl::StatusOr<Matrix> image_rows = EncodeImages(images);
    if (!image_rows.ok()) return image_rows.status();
    constexpr float kLogitScale = 10;
    std::vector<float> scores(texts.size());
    for (int64_t i = 0; i < images.rows; ++i) {
      for (int64_t j = 0; j < dimension_; ++j) {
        scores[i] += kLogitScale * text_rows->row(i)[j] * image_rows->row(i)[j];
      }
    }
    return scores;
  }

  // One span per frame, as probable as the frame's cosine with the tokens' sum;
  // saliency is that too.
  absl::StatusOr<std::vector<MomentPrediction>> PredictMoments(
      absl::Span<const MatrixView> texts,
      const MatrixView& frames) const override {
    std::vector<MomentPrediction> predictions;
    const auto count = static_cast<float>(frames.rows);
    for (const MatrixView& text : texts) {
      std::vector<float> sum(dimension_);
      for (int64_t i = 0; i < text.rows * dimension_; ++i) {
        sum[i % dimension_] += text.data[i];
      }
      Normalize(absl::MakeSpan(sum));
      MomentPrediction& prediction = predictions.emplace_back();
      for (int64_t i = 0; i < frames.rows; ++i) {
        std::vector<float> frame(frames.row(i).begin(), frames.row(i).end());
        Normalize(absl::MakeSpan(frame));
        float cosine = 0;
        for (int64_t j = 0; j < dimension_; ++j) cosine += sum[j] * frame[j];
        prediction.saliency.push_back(cosine);
        prediction.spans.push_back(
            {.probability = std::max(cosine, 0.0F),
             .centre = (static_cast<float>(i) + 0.5F) / count,
             .width = 1 / count});
      }
    }
    return predictions;
  }

  absl::StatusOr<std::vector<Matrix>> EncodeTokens(
      absl::Span<const Tokens> texts) const override {
    std::vector<Matrix> features;
    for (const Tokens& text : texts) {
      if (text.ids.empty()) {
        return absl::InvalidArgumentError("a text has no tokens");
      }
      const auto tokens = static_cast<int64_t>(text.ids.size());
      Matrix& matrix = features.emplace_back(tokens, dimension_);
      for (int64_t i = 0; i < tokens; ++i) {
        AddTokens({&text.ids[i], 1}, matrix.row(i));
      }
    }
    return features;
  }

 private:
  using Color = std::array<float, 3>;

  struct NamedColor {
    absl::string_view name;
    Color color;
  };

  static constexpr std::array<NamedColor, 8> kColors = {{
      {"red", {255, 0, 0}},
      {"green", {0, 255, 0}},
      {"blue", {0, 0, 255}},
      {"yellow", {255, 255, 0}},
      {"purple", {255, 0, 255}},
      {"cyan", {0, 255, 255}},
      {"white", {255, 255, 255}},
      {"black", {0, 0, 0}},
  }};

  static void Normalize(absl::Span<float> row) {
    double squares = 0;
    for (const float value : row) squares += double{value} * value;
    for (float& value : row) {
      value = static_cast<float>(value / std::sqrt(squares));
    }
  }

  // Adds `weight` times the direction of a token: uniform values from its id
  // (splitmix64).
  static void AddToken(int32_t id, float weight, absl::Span<float> row) {
    auto state = static_cast<uint64_t>(id);
    for (float& value : row) {
      state += 0x9E3779B97F4A7C15;
      uint64_t bits = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9;
      bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
      const double unit = static_cast<double>((bits ^ (bits >> 31)) >> 11) /
                          static_cast<double>(uint64_t{1} << 53);
      value += weight * static_cast<float>(2 * unit - 1);
    }
  }

  // The start token weighs little: it only keeps an empty text from zero.
  static void AddTokens(absl::Span<const int32_t> ids, absl::Span<float> row) {
    constexpr float kStartWeight = 0.1F;
    for (const int32_t id : ids) {
      AddToken(id, id == FakeTokenizer::kStart ? kStartWeight : 1, row);
    }
  }

  static Color MeanColor(const PixelBatch& images, int64_t row, int64_t cell_y,
                         int64_t cell_x) {
    Color mean = {};
    for (int64_t y = cell_y * kStride; y < (cell_y + 1) * kStride; ++y) {
      for (int64_t x = cell_x * kStride; x < (cell_x + 1) * kStride; ++x) {
        const float* pixel = images.values.data() +
                             ((row * images.height + y) * images.width + x) * 3;
        for (int64_t channel = 0; channel < 3; ++channel) {
          mean[channel] += pixel[channel] / (kStride * kStride);
        }
      }
    }
    return mean;
  }

  std::vector<float> EmbedColor(const Color& color) const {
    constexpr double kReach = 90;  // Colour distance at which a name fades.
    std::vector<float> embedding(dimension_);
    for (const NamedColor& named : kColors) {
      double squares = 0;
      for (size_t i = 0; i < color.size(); ++i) {
        const double difference = double{color[i]} - named.color[i];
        squares += difference * difference;
      }
      AddToken(FakeTokenizer::IdOf(named.name),
               static_cast<float>(std::exp(-squares / (2 * kReach * kReach))),
               absl::MakeSpan(embedding));
    }
    return embedding;
  }

  const int64_t dimension_;
};

// A model of the two above that reads pictures of 16 x 16 pixels.
inline std::shared_ptr<const Model> MakeFakeModel(
    std::string name = "fake", int64_t dimension = 32,
    std::vector<std::string> capabilities = {"image.global", "image.dense",
                                             "text.global"}) {
  ModelInfo info{.name = name,
                 .version = "1",
                 .fingerprint = "fingerprint-of-" + name,
                 .dimension = dimension,
                 .capabilities = std::move(capabilities),
                 .device = "cpu",
                 .max_tokens = FakeTokenizer().max_tokens(),
                 .max_moment_frames = 4,
                 .max_moment_tokens = 8};
  ImagePreprocessing preprocessing;
  preprocessing.width = 2 * FakeEncoder::kStride;
  preprocessing.height = 2 * FakeEncoder::kStride;
  return std::make_shared<const Model>(
      std::move(info), preprocessing, std::make_unique<FakeTokenizer>(),
      std::make_unique<FakeEncoder>(dimension));
}

}  // namespace quern
