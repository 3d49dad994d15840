#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/model/encoder.h"

// What every Encoder with both towers and a dense output must do. A backend's
// test instantiates the suite:
//
//   INSTANTIATE_TEST_SUITE_P(Fake, EncoderContract, testing::Values(...));

namespace quern {

struct EncoderContractCase {
  // May give the same encoder every time.
  std::function<std::shared_ptr<const Encoder>()> encoder;
  int64_t stride = 1;     // Pixels per cell; sides of pictures divide by it.
  int32_t max_token = 1;  // Token ids from 1 to here are in the vocabulary.
  // Largest difference of any value that the company of a row makes.
  float rounding = 2e-5F;
  bool has_match = true;
  bool has_tokens = true;  // It has an output per token.
};

inline void PrintTo(const EncoderContractCase& contract, std::ostream* out) {
  *out << "stride " << contract.stride;
}

class EncoderContract : public testing::TestWithParam<EncoderContractCase> {
 protected:
  void SetUp() override {
    encoder_ = GetParam().encoder();
    ASSERT_NE(encoder_, nullptr);
  }

  // Pictures of `cells` x `cells` cells, of smooth noise, each from its own
  // seed.
  PixelBatch Pictures(int64_t rows, int64_t cells, uint32_t seed = 1) const {
    PixelBatch images{.rows = rows,
                      .height = cells * GetParam().stride,
                      .width = cells * GetParam().stride};
    for (int64_t row = 0; row < rows; ++row) {
      std::mt19937 random(seed + static_cast<uint32_t>(row));
      std::uniform_real_distribution<float> value(-1, 1);
      for (int64_t i = 0; i < 3 * images.height * images.width; ++i) {
        images.values.push_back(value(random));
      }
    }
    return images;
  }

  static PixelBatch Picture(const PixelBatch& images, int64_t row) {
    const int64_t size = 3 * images.height * images.width;
    const auto first = images.values.begin() + row * size;
    return {.rows = 1,
            .height = images.height,
            .width = images.width,
            .values = std::vector<float>(first, first + size)};
  }

  // Texts of different lengths.
  std::vector<Tokens> Texts(int64_t rows) const {
    std::mt19937 random(7);
    std::uniform_int_distribution<int32_t> id(1, GetParam().max_token);
    std::vector<Tokens> texts(rows);
    for (int64_t row = 0; row < rows; ++row) {
      texts[row].ids.resize(1 + (row * 5) % 14);
      for (int32_t& token : texts[row].ids) token = id(random);
    }
    return texts;
  }

  static void ExpectUnitRows(const Matrix& rows) {
    for (int64_t i = 0; i < rows.rows(); ++i) {
      double squares = 0;
      for (const float value : rows.row(i)) squares += double{value} * value;
      EXPECT_NEAR(squares, 1, 1e-4) << "row " << i;
    }
  }

  static void ExpectNear(absl::Span<const float> actual,
                         absl::Span<const float> expected) {
    const float rounding = GetParam().rounding;
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], rounding) << "value " << i;
    }
  }

  std::shared_ptr<const Encoder> encoder_;
};

TEST_P(EncoderContract, GivesUnitRowsOfItsDimension) {
  const absl::StatusOr<Matrix> texts = encoder_->EncodeText(Texts(5));
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(texts->rows(), 5);
  EXPECT_EQ(texts->columns(), encoder_->dimension());
  ExpectUnitRows(*texts);

  const absl::StatusOr<Matrix> images = encoder_->EncodeImages(Pictures(3, 2));
  ASSERT_TRUE(images.ok()) << images.status();
  EXPECT_EQ(images->rows(), 3);
  EXPECT_EQ(images->columns(), encoder_->dimension());
  ExpectUnitRows(*images);
}

TEST_P(EncoderContract, GivesNothingForAnEmptyBatch) {
  EXPECT_EQ(encoder_->EncodeText({})->rows(), 0);
  EXPECT_EQ(encoder_->EncodeImages(PixelBatch())->rows(), 0);
  EXPECT_EQ(encoder_->EncodeDense(PixelBatch())->rows, 0);
}

TEST_P(EncoderContract, EncodesATextTheSameInAnyCompany) {
  const std::vector<Tokens> texts = Texts(40);
  const absl::StatusOr<Matrix> together = encoder_->EncodeText(texts);
  ASSERT_TRUE(together.ok()) << together.status();
  for (const int64_t row : {0, 1, 17, 39}) {
    const absl::StatusOr<Matrix> alone = encoder_->EncodeText({&texts[row], 1});
    ASSERT_TRUE(alone.ok()) << alone.status();
    ExpectNear(together->row(row), alone->row(0));
  }
}

TEST_P(EncoderContract, EncodesAPictureTheSameInAnyCompany) {
  const PixelBatch images = Pictures(5, 2);
  const absl::StatusOr<Matrix> together = encoder_->EncodeImages(images);
  const absl::StatusOr<DenseMaps> maps = encoder_->EncodeDense(images);
  ASSERT_TRUE(together.ok()) << together.status();
  ASSERT_TRUE(maps.ok()) << maps.status();
  const size_t map_size = maps->values.size() / images.rows;
  for (int64_t row = 0; row < images.rows; ++row) {
    const PixelBatch image = Picture(images, row);
    ExpectNear(together->row(row), encoder_->EncodeImages(image)->row(0));
    const absl::Span<const float> all = maps->values;
    ExpectNear(all.subspan(row * map_size, map_size),
               encoder_->EncodeDense(image)->values);
  }
}

TEST_P(EncoderContract, GivesARowPerTokenInAnyCompany) {
  if (!GetParam().has_tokens) {
    EXPECT_EQ(encoder_->EncodeTokens({}).status().code(),
              absl::StatusCode::kFailedPrecondition);
    return;
  }
  EXPECT_TRUE(encoder_->EncodeTokens({})->empty());
  const std::vector<Tokens> texts = Texts(40);
  const absl::StatusOr<std::vector<Matrix>> together =
      encoder_->EncodeTokens(texts);
  ASSERT_TRUE(together.ok()) << together.status();
  ASSERT_EQ(together->size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const absl::StatusOr<std::vector<Matrix>> alone =
        encoder_->EncodeTokens({&texts[i], 1});
    ASSERT_TRUE(alone.ok()) << alone.status();
    const Matrix& matrix = (*together)[i];
    ASSERT_EQ(matrix.rows(), static_cast<int64_t>(texts[i].ids.size()));
    ASSERT_EQ(matrix.columns(), encoder_->dimension());
    ASSERT_EQ(alone->front().rows(), matrix.rows());
    for (int64_t token = 0; token < matrix.rows(); ++token) {
      ExpectNear(matrix.row(token), alone->front().row(token));
    }
  }
}

TEST_P(EncoderContract, TellsInputsApart) {
  const absl::StatusOr<Matrix> texts = encoder_->EncodeText(Texts(2));
  const absl::StatusOr<Matrix> images = encoder_->EncodeImages(Pictures(2, 2));
  ASSERT_TRUE(texts.ok() && images.ok());
  EXPECT_NE(texts->row(0), texts->row(1));
  EXPECT_NE(images->row(0), images->row(1));
}

TEST_P(EncoderContract, RepeatsItself) {
  const PixelBatch images = Pictures(2, 2);
  const std::vector<Tokens> texts = Texts(3);
  ExpectNear(encoder_->EncodeText(texts)->row(2),
             encoder_->EncodeText(texts)->row(2));
  ExpectNear(encoder_->EncodeImages(images)->row(1),
             encoder_->EncodeImages(images)->row(1));
}

TEST_P(EncoderContract, GivesOneCellPerStride) {
  PixelBatch images{.rows = 2,
                    .height = 3 * GetParam().stride,
                    .width = 5 * GetParam().stride};
  images.values.resize(images.rows * 3 * images.height * images.width, 0.5F);
  const absl::StatusOr<DenseMaps> maps = encoder_->EncodeDense(images);
  ASSERT_TRUE(maps.ok()) << maps.status();
  EXPECT_EQ(maps->rows, 2);
  EXPECT_EQ(maps->grid_height, 3);
  EXPECT_EQ(maps->grid_width, 5);
  EXPECT_EQ(maps->dimension, encoder_->dimension());
  EXPECT_EQ(static_cast<int64_t>(maps->values.size()),
            2 * 3 * 5 * encoder_->dimension());
}

TEST_P(EncoderContract, RejectsSidesThatDoNotDivide) {
  PixelBatch images{
      .rows = 1, .height = GetParam().stride, .width = GetParam().stride + 1};
  images.values.resize(3 * images.height * images.width);
  EXPECT_EQ(encoder_->EncodeImages(images).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(encoder_->EncodeDense(images).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(EncoderContract, RejectsValuesThatDoNotFillTheShape) {
  PixelBatch images = Pictures(2, 1);
  images.values.pop_back();
  EXPECT_EQ(encoder_->EncodeImages(images).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(encoder_->EncodeDense(images).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(EncoderContract, RejectsATextWithoutTokens) {
  const Tokens nothing;
  EXPECT_EQ(encoder_->EncodeText({&nothing, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  if (!GetParam().has_tokens) return;
  EXPECT_EQ(encoder_->EncodeTokens({&nothing, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(EncoderContract, MatchesAPairTheSameInAnyCompany) {
  const PixelBatch images = Pictures(5, 2);
  const std::vector<Tokens> texts = Texts(5);
  const absl::StatusOr<std::vector<float>> together =
      encoder_->Match(images, texts);
  if (!GetParam().has_match) {
    EXPECT_EQ(together.status().code(), absl::StatusCode::kFailedPrecondition);
    return;
  }
  ASSERT_TRUE(together.ok()) << together.status();
  ASSERT_EQ(together->size(), texts.size());
  EXPECT_NE((*together)[0], (*together)[1]);
  for (int64_t row = 0; row < images.rows; ++row) {
    const absl::StatusOr<std::vector<float>> alone =
        encoder_->Match(Picture(images, row), {&texts[row], 1});
    ASSERT_TRUE(alone.ok()) << alone.status();
    ExpectNear(*alone, {&(*together)[row], 1});
  }
}

TEST_P(EncoderContract, MatchesNothingWithNothing) {
  if (!GetParam().has_match) return;
  EXPECT_THAT(*encoder_->Match(PixelBatch(), {}), testing::IsEmpty());
}

TEST_P(EncoderContract, RejectsPairsThatItCannotMatch) {
  if (!GetParam().has_match) return;
  const PixelBatch images = Pictures(2, 2);
  EXPECT_EQ(encoder_->Match(images, Texts(3)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(encoder_->Match(images, std::vector<Tokens>(2)).status().code(),
            absl::StatusCode::kInvalidArgument);
  PixelBatch odd = images;
  odd.values.pop_back();
  EXPECT_EQ(encoder_->Match(odd, Texts(2)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(EncoderContract, ServesManyThreads) {
  constexpr int kThreads = 8;
  const PixelBatch images = Pictures(kThreads, 2);
  const std::vector<Tokens> texts = Texts(kThreads);
  const absl::StatusOr<Matrix> expected_images = encoder_->EncodeImages(images);
  const absl::StatusOr<Matrix> expected_texts = encoder_->EncodeText(texts);
  ASSERT_TRUE(expected_images.ok() && expected_texts.ok());

  std::vector<absl::StatusOr<Matrix>> actual_images(kThreads);
  std::vector<absl::StatusOr<Matrix>> actual_texts(kThreads);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      actual_images[i] = encoder_->EncodeImages(Picture(images, i));
      actual_texts[i] = encoder_->EncodeText({&texts[i], 1});
    });
  }
  for (std::thread& thread : threads) thread.join();

  for (int i = 0; i < kThreads; ++i) {
    ASSERT_TRUE(actual_images[i].ok()) << actual_images[i].status();
    ASSERT_TRUE(actual_texts[i].ok()) << actual_texts[i].status();
    ExpectNear(actual_images[i]->row(0), expected_images->row(i));
    ExpectNear(actual_texts[i]->row(0), expected_texts->row(i));
  }
}

}  // namespace quern
