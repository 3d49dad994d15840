#include "engine/model/model.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace quern {
namespace {

const Clock* RealTime() {
  static const RealClock clock;
  return &clock;
}

void CallBack(BatchItem* item) { static_cast<EncodeRow*>(item)->on_done(); }

// Rows of the batch for which `wants` is set.
template <typename Row>
std::vector<Row*> Wanting(absl::Span<BatchItem* const> batch,
                          bool Row::*wants) {
  std::vector<Row*> rows;
  for (BatchItem* item : batch) {
    auto* row = static_cast<Row*>(item);
    if (row->*wants) rows.push_back(row);
  }
  return rows;
}

// The rows' tokens side by side. Lent, not given: a batch that fails is run
// again in halves.
class LentTokens {
 public:
  explicit LentTokens(const std::vector<TextRow*>& rows) : rows_(rows) {
    tokens_.reserve(rows.size());
    for (TextRow* row : rows) tokens_.push_back(std::move(row->tokens));
  }
  ~LentTokens() {
    for (size_t i = 0; i < rows_.size(); ++i) {
      rows_[i]->tokens = std::move(tokens_[i]);
    }
  }
  LentTokens(const LentTokens&) = delete;
  LentTokens& operator=(const LentTokens&) = delete;

  absl::Span<const Tokens> get() const { return tokens_; }

 private:
  const std::vector<TextRow*>& rows_;
  std::vector<Tokens> tokens_;
};

}  // namespace

absl::string_view PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kAuto:
      return "auto";
    case Precision::kFp32:
      return "fp32";
    case Precision::kBf16:
      return "bf16";
  }
  return "";
}

Model::Model(ModelInfo info, ImagePreprocessing preprocessing,
             std::unique_ptr<Tokenizer> tokenizer,
             std::unique_ptr<Encoder> encoder, const ModelBatching& batching)
    : info_(std::move(info)),
      preprocessing_(preprocessing),
      tokenizer_(std::move(tokenizer)),
      encoder_(std::move(encoder)) {
  const Clock* clock = batching.clock == nullptr ? RealTime() : batching.clock;
  if (tokenizer_ != nullptr) {
    text_batcher_ = std::make_unique<Batcher>(
        "text-tower", batching.text, clock,
        [this](absl::Span<BatchItem* const> batch) { return RunTexts(batch); },
        CallBack);
  }
  if (info_.Has("image.global") || info_.Has("image.dense")) {
    image_batcher_ = std::make_unique<Batcher>(
        "image-tower", batching.image, clock,
        [this](absl::Span<BatchItem* const> batch) { return RunImages(batch); },
        CallBack);
  }
}

absl::Status Model::Require(absl::string_view capability) const {
  if (info_.Has(capability)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("model ", Quoted(info_.name), " lacks the capability ",
                   capability, ": use a model that has it"));
}

absl::Status Model::RunTexts(absl::Span<BatchItem* const> batch) const {
  const std::vector<TextRow*> global =
      Wanting(batch, &TextRow::wants_embedding);
  if (!global.empty()) {
    const LentTokens texts(global);
    QUERN_ASSIGN_OR_RETURN(const Matrix matrix,
                           encoder_->EncodeText(texts.get()));
    for (size_t i = 0; i < global.size(); ++i) {
      const auto values = matrix.row(static_cast<int64_t>(i));
      global[i]->embedding.assign(values.begin(), values.end());
    }
  }
  const std::vector<TextRow*> by_token = Wanting(batch, &TextRow::wants_tokens);
  if (!by_token.empty()) {
    const LentTokens texts(by_token);
    QUERN_ASSIGN_OR_RETURN(std::vector<Matrix> matrices,
                           encoder_->EncodeTokens(texts.get()));
    for (size_t i = 0; i < by_token.size(); ++i) {
      by_token[i]->features = std::move(matrices[i]);
    }
  }
  return absl::OkStatus();
}

absl::Status Model::RunImages(absl::Span<BatchItem* const> batch) const {
  // One buffer a thread, as large as its largest batch.
  thread_local PixelBatch images;
  images.height = preprocessing_.height;
  images.width = preprocessing_.width;
  const auto gather = [&](absl::Span<ImageRow* const> rows) {
    images.rows = static_cast<int64_t>(rows.size());
    const int64_t picture_values = images.height * images.width * 3;
    images.values.resize(images.rows * picture_values);
    auto values = absl::MakeSpan(images.values);
    for (const ImageRow* row : rows) {
      Normalise(row->rgb, preprocessing_, values.first(picture_values));
      values.remove_prefix(picture_values);
    }
  };
  const std::vector<ImageRow*> global =
      Wanting(batch, &ImageRow::wants_embedding);
  if (!global.empty()) {
    gather(global);
    QUERN_ASSIGN_OR_RETURN(const Matrix matrix, encoder_->EncodeImages(images));
    for (size_t i = 0; i < global.size(); ++i) {
      const auto values = matrix.row(static_cast<int64_t>(i));
      global[i]->embedding.assign(values.begin(), values.end());
    }
  }
  const std::vector<ImageRow*> dense = Wanting(batch, &ImageRow::wants_dense);
  // Those of one size side by side: only they are one batch.
  const auto size_of = [&](const ImageRow* row) {
    return row->height == 0
               ? std::pair(preprocessing_.height, preprocessing_.width)
               : std::pair(row->height, row->width);
  };
  std::vector<ImageRow*> by_size = dense;
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](const ImageRow* a, const ImageRow* b) {
                     return size_of(a) < size_of(b);
                   });
  for (auto first = by_size.begin(); first != by_size.end();) {
    const auto last = std::find_if(first, by_size.end(), [&](ImageRow* row) {
      return size_of(row) != size_of(*first);
    });
    const absl::Span<ImageRow* const> rows(&*first, last - first);
    std::tie(images.height, images.width) = size_of(*first);
    if (by_size != global) gather(rows);
    first = last;
    QUERN_ASSIGN_OR_RETURN(const DenseMaps maps, encoder_->EncodeDense(images));
    const auto map_size =
        static_cast<int64_t>(maps.values.size() / rows.size());
    auto values = maps.values.begin();
    for (ImageRow* row : rows) {
      row->dense = {.rows = 1,
                    .grid_height = maps.grid_height,
                    .grid_width = maps.grid_width,
                    .dimension = maps.dimension,
                    .values = {values, values + map_size}};
      values += map_size;
    }
  }
  return absl::OkStatus();
}

bool ModelInfo::Has(absl::string_view capability) const {
  return std::find(capabilities.begin(), capabilities.end(), capability) !=
         capabilities.end();
}

absl::StatusOr<Model::TextEmbedding> Model::EmbedText(
    absl::string_view text) const {
  QUERN_RETURN_IF_ERROR(Require("text.global"));
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("text ", Quoted(text), " is not valid UTF-8"));
  }
  const Tokens tokens = tokenizer_->Tokenize(text);
  QUERN_ASSIGN_OR_RETURN(const Matrix rows, encoder_->EncodeText({&tokens, 1}));
  return TextEmbedding{.embedding = {rows.row(0).begin(), rows.row(0).end()},
                       .truncated = tokens.truncated,
                       .tokens = static_cast<int64_t>(tokens.ids.size())};
}

absl::StatusOr<std::vector<float>> Model::EmbedImage(const Image& image) const {
  QUERN_RETURN_IF_ERROR(Require("image.global"));
  PixelBatch pixels{.rows = 1,
                    .height = preprocessing_.height,
                    .width = preprocessing_.width};
  pixels.values.resize(3 * pixels.height * pixels.width);
  Normalise(Fit(image, preprocessing_).rgb, preprocessing_,
            absl::MakeSpan(pixels.values));
  QUERN_ASSIGN_OR_RETURN(const Matrix rows, encoder_->EncodeImages(pixels));
  return std::vector<float>(rows.row(0).begin(), rows.row(0).end());
}

}  // namespace quern
