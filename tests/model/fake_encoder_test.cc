#include "tests/support/fake_encoder.h"

#include "tests/contract/encoder_contract.h"

namespace quern {
namespace {

INSTANTIATE_TEST_SUITE_P(
    Fake, EncoderContract,
    testing::Values(EncoderContractCase{
        .encoder = [] { return std::make_shared<const FakeEncoder>(); },
        .stride = FakeEncoder::kStride,
        .max_token = 1'000'000}));

float Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  float sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Image Plain(uint8_t red, uint8_t green, uint8_t blue) {
  Image image{.width = 20, .height = 10};
  for (int64_t i = 0; i < image.width * image.height; ++i) {
    image.rgb.insert(image.rgb.end(), {red, green, blue});
  }
  return image;
}

TEST(FakeModelTest, FindsThePictureOfTheNamedColor) {
  const std::shared_ptr<const Model> model = MakeFakeModel();
  const std::vector<float> red = model->EmbedText("a RED picture")->embedding;
  EXPECT_GT(Cosine(red, *model->EmbedImage(Plain(230, 20, 10))),
            Cosine(red, *model->EmbedImage(Plain(20, 30, 240))) + 0.2F);
}

}  // namespace
}  // namespace quern
