#include "engine/model/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace quern {
namespace {

absl::Status RequireCapability(const ModelInfo& info,
                               absl::string_view capability) {
  if (info.Has(capability)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("model ", Quoted(info.name), " lacks the capability ",
                   capability, ": use a model that has it"));
}

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

bool ModelInfo::Has(absl::string_view capability) const {
  return std::find(capabilities.begin(), capabilities.end(), capability) !=
         capabilities.end();
}

absl::StatusOr<Model::TextEmbedding> Model::EmbedText(
    absl::string_view text) const {
  QUERN_RETURN_IF_ERROR(RequireCapability(info_, "text.global"));
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
  QUERN_RETURN_IF_ERROR(RequireCapability(info_, "image.global"));
  PixelBatch pixels{.rows = 1,
                    .height = preprocessing_.height,
                    .width = preprocessing_.width};
  pixels.values.resize(3 * pixels.height * pixels.width);
  Preprocess(image, preprocessing_, absl::MakeSpan(pixels.values));
  QUERN_ASSIGN_OR_RETURN(const Matrix rows, encoder_->EncodeImages(pixels));
  return std::vector<float>(rows.row(0).begin(), rows.row(0).end());
}

}  // namespace quern
