#include "engine/embed/embedder.h"

#include <atomic>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/error.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;
using testing::SizeIs;

// Reads "red" and "blue" as pictures; counts.
class FakeDecoder final : public ImageDecoder {
 public:
  int64_t decoded() const { return decoded_; }

 private:
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t,
                                 int64_t) const override {
    ++decoded_;
    Image image{.width = 16, .height = 16};
    image.rgb.resize(3 * 16 * 16);
    if (encoded != "red" && encoded != "blue") {
      return absl::InvalidArgumentError("is not a picture");
    }
    for (size_t i = encoded == "red" ? 0 : 2; i < image.rgb.size(); i += 3) {
      image.rgb[i] = 255;
    }
    return image;
  }

  mutable std::atomic<int64_t> decoded_ = 0;
};

// Stands still in its first forward pass until it is opened.
class GatedEncoder final : public Encoder {
 public:
  struct Gate {
    absl::Notification reached;
    absl::Notification open;
    std::atomic<bool> is_used = false;
  };

  explicit GatedEncoder(Gate* gate) : gate_(gate) {}

  int64_t dimension() const override { return fake_.dimension(); }
  absl::StatusOr<Matrix> EncodeText(
      absl::Span<const Tokens> texts) const override {
    Wait();
    return fake_.EncodeText(texts);
  }
  absl::StatusOr<Matrix> EncodeImages(const PixelBatch& images) const override {
    Wait();
    return fake_.EncodeImages(images);
  }
  absl::StatusOr<DenseMaps> EncodeDense(
      const PixelBatch& images) const override {
    return fake_.EncodeDense(images);
  }
  absl::StatusOr<std::vector<Matrix>> EncodeTokens(
      absl::Span<const Tokens> texts) const override {
    return fake_.EncodeTokens(texts);
  }

 private:
  void Wait() const {
    if (gate_->is_used.exchange(true)) return;
    gate_->reached.Notify();
    gate_->open.WaitForNotification();
  }

  Gate* const gate_;
  const FakeEncoder fake_;
};

class EmbedderTest : public testing::Test {
 protected:
  using Results = std::vector<absl::StatusOr<Embedded>>;

  EmbedderTest() { Start({.text_cache_bytes = 1'000'000}); }

  void Start(EmbedderOptions options) {
    embedder_ = std::make_unique<Embedder>(std::move(options), &images_,
                                           &videos_, &calls_);
  }

  Results Embed(const std::vector<EmbedInput>& inputs,
                const EmbedOptions& options = {}) {
    const RequestContext context(&clock_, "test");
    return Await<Results>([&](const auto& done) {
      embedder_->Embed(context, model_, inputs, options, done);
    });
  }

  std::shared_ptr<const Model> Gated(GatedEncoder::Gate* gate,
                                     const ModelBatching& batching) {
    ImagePreprocessing preprocessing;
    preprocessing.width = preprocessing.height = 2 * FakeEncoder::kStride;
    return std::make_shared<const Model>(
        model_->info(), preprocessing, std::make_unique<FakeTokenizer>(),
        std::make_unique<GatedEncoder>(gate), batching);
  }

  const RealClock clock_;
  FakeDecoder images_;
  FakeVideoDecoder videos_;
  ThreadPool calls_{{.name = "calls", .threads = 2}};
  std::shared_ptr<const Model> model_ = MakeFakeModel();
  std::unique_ptr<Embedder> embedder_;
};

TEST_F(EmbedderTest, EmbedsTextsPicturesAndVideosInOrder) {
  const Results results =
      Embed({ImageInput{"red"}, TextInput{"a red thing"},
             VideoInput{"red red blue"}, TextInput{"blue"}});
  ASSERT_THAT(results, SizeIs(4));
  for (const auto& result : results) ASSERT_THAT(result, IsOk());
  EXPECT_EQ(results[1]->embedding, model_->EmbedText("a red thing")->embedding);
  EXPECT_EQ(results[3]->embedding, model_->EmbedText("blue")->embedding);
  EXPECT_EQ(results[1]->tokens, 4);
  EXPECT_EQ(results[0]->tokens, 0);
  EXPECT_THAT(Embed({}), SizeIs(0));
}

TEST_F(EmbedderTest, GivesThePictureAndTakesADecodedOne) {
  const Results first = Embed({ImageInput{"red"}}, {.picture = true});
  ASSERT_THAT(first[0], IsOk());
  ASSERT_NE(first[0]->picture, nullptr);
  EXPECT_EQ(first[0]->picture->width, 16);
  const int64_t decoded = images_.decoded();
  const Results second =
      Embed({ImageInput{.pixels = first[0]->picture}}, {.dense = true});
  ASSERT_THAT(second[0], IsOk());
  EXPECT_EQ(images_.decoded(), decoded);
  EXPECT_EQ(second[0]->embedding, first[0]->embedding);
  EXPECT_EQ(second[0]->dense.grid_height, 2);
  EXPECT_EQ(second[0]->width, 16);
  EXPECT_EQ(second[0]->picture, nullptr);
}

TEST_F(EmbedderTest, AVideoIsTheMeanDirectionOfItsFrames) {
  const Results results =
      Embed({VideoInput{"red red blue"}, ImageInput{"red"}, ImageInput{"blue"}},
            {.embedding = true, .dense = true});
  ASSERT_THAT(results[0], IsOk());
  const Embedded& video = *results[0];
  EXPECT_THAT(video.times,
              ElementsAre(absl::ZeroDuration(), absl::Milliseconds(500),
                          absl::Seconds(1)));
  EXPECT_EQ(video.dense.rows, 3);
  EXPECT_EQ(video.dense.values.size(), 3 * video.embedding.size());
  std::vector<double> sum(video.embedding.size());
  double squares = 0;
  for (size_t i = 0; i < sum.size(); ++i) {
    sum[i] = 2.0 * results[1]->embedding[i] + results[2]->embedding[i];
    squares += sum[i] * sum[i];
    EXPECT_EQ(video.dense.values[i], results[1]->embedding[i]);
  }
  for (size_t i = 0; i < sum.size(); ++i) {
    EXPECT_NEAR(video.embedding[i], sum[i] / std::sqrt(squares), 1e-6);
  }
  // A picture's grid is of the encoder's cells.
  EXPECT_EQ(results[1]->dense.grid_height, 2);
  EXPECT_EQ(results[1]->dense.grid_width, 2);
}

TEST_F(EmbedderTest, ABadInputFailsAloneAndNamesItsField) {
  const Results results =
      Embed({TextInput{""}, TextInput{"caf\xe9"}, ImageInput{"nonsense"},
             VideoInput{"nonsense"}, VideoInput{"broken"}, TextInput{"good"}});
  const std::vector<std::string> fields = {"text", "text", "image.content",
                                           "video.content", "video.content"};
  for (size_t i = 0; i < fields.size(); ++i) {
    EXPECT_THAT(results[i], StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(GetField(results[i].status()), Optional(fields[i]));
  }
  EXPECT_THAT(results[5], IsOk());
  EXPECT_EQ(model_->image_batcher()->stats().queued_rows, 0);
}

TEST_F(EmbedderTest, OutputsThatAnInputDoesNotHaveAreRefused) {
  EXPECT_THAT(Embed({TextInput{"x"}}, {.dense = true})[0],
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("DENSE")));
  EXPECT_THAT(
      Embed({ImageInput{"red"}}, {.tokens = true})[0],
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TOKENS")));
  EXPECT_THAT(Embed({TextInput{"x"}}, {.tokens = true})[0],
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("text.tokens")));
}

TEST_F(EmbedderTest, ATextIsEmbeddedTokenByToken) {
  ModelInfo info = model_->info();
  info.capabilities.push_back("text.tokens");
  model_ = std::make_shared<const Model>(info, ImagePreprocessing(),
                                         std::make_unique<FakeTokenizer>(),
                                         std::make_unique<FakeEncoder>());
  const Results results = Embed({TextInput{"red blue"}, TextInput{"x"}},
                                {.embedding = false, .tokens = true});
  ASSERT_THAT(results[0], IsOk());
  EXPECT_THAT(results[0]->token_ids,
              ElementsAre(FakeTokenizer::kStart, FakeTokenizer::IdOf("red"),
                          FakeTokenizer::IdOf("blue")));
  EXPECT_EQ(results[0]->token_features.rows(), 3);
  EXPECT_EQ(results[0]->token_features.columns(), info.dimension);
  EXPECT_THAT(results[0]->embedding, SizeIs(0));
  EXPECT_EQ(results[1]->token_features.rows(), 2);
}

TEST_F(EmbedderTest, ATextThatCameBeforeIsNotEncodedAgain) {
  const Results first = Embed({TextInput{"twice"}});
  const Results second = Embed({TextInput{"twice"}, TextInput{"once"}});
  EXPECT_EQ(first[0]->embedding, second[0]->embedding);
  EXPECT_EQ(first[0]->tokens, second[0]->tokens);
  EXPECT_EQ(embedder_->cache_stats().hits, 1);
  EXPECT_EQ(embedder_->cache_stats().misses, 2);
}

TEST_F(EmbedderTest, AnotherModelHasOtherEntriesInTheCache) {
  Embed({TextInput{"text"}});
  model_ = MakeFakeModel("other", 8);
  EXPECT_THAT(Embed({TextInput{"text"}})[0]->embedding, SizeIs(8));
}

TEST_F(EmbedderTest, MediaAreReadBelowTheRootsOnly) {
  const TemporaryDirectory root;
  const TemporaryDirectory elsewhere;
  std::ofstream(root.File("a.png")) << "red";
  std::ofstream(elsewhere.File("b.png")) << "red";
  Start({.media_roots = {root.path()}});
  EXPECT_THAT(Embed({ImageInput{.uri = "a.png"}})[0], IsOk());
  EXPECT_THAT(Embed({VideoInput{.uri = "a.png"}})[0], IsOk());
  EXPECT_THAT(
      Embed({ImageInput{.uri = elsewhere.File("b.png")}})[0],
      StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("image.uri")));
  EXPECT_THAT(Embed({ImageInput{.uri = "c.png"}})[0],
              StatusIs(absl::StatusCode::kNotFound));
  Start({.max_image_bytes = 2, .media_roots = {root.path()}});
  EXPECT_THAT(Embed({ImageInput{.uri = "a.png"}})[0],
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(EmbedderTest, WhatIsRefusedIsNotDecoded) {
  GatedEncoder::Gate gate;
  model_ = Gated(&gate, {.image = {.max_rows = 1, .max_queued_rows = 2}});
  const RequestContext context(&clock_, "first");
  absl::Notification first_done;
  embedder_->Embed(context, model_, {ImageInput{"red"}}, {},
                   [&](const Results& results) {
                     EXPECT_THAT(results[0], IsOk());
                     first_done.Notify();
                   });
  gate.reached.WaitForNotification();
  const int64_t decoded = images_.decoded();
  // Three rows where two may wait: none is let in.
  const Results refused =
      Embed({ImageInput{"red"}, ImageInput{"red"}, ImageInput{"red"}});
  for (const auto& result : refused) {
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_TRUE(GetRetryDelay(result.status()).has_value());
  }
  EXPECT_EQ(images_.decoded(), decoded);
  gate.open.Notify();
  first_done.WaitForNotification();
}

TEST_F(EmbedderTest, ACancelledCallEndsWithoutItsTurn) {
  GatedEncoder::Gate gate;
  model_ = Gated(&gate, {.text = {.max_rows = 1}});
  const RequestContext first(&clock_, "first");
  RequestContext second(&clock_, "second");
  std::atomic<int> ended = 0;
  absl::Notification second_done;
  embedder_->Embed(first, model_, {TextInput{"a"}}, {},
                   [&](const Results& results) {
                     EXPECT_THAT(results[0], IsOk());
                     ++ended;
                   });
  gate.reached.WaitForNotification();
  embedder_->Embed(
      second, model_, {TextInput{"b"}}, {}, [&](const Results& results) {
        EXPECT_THAT(results[0], StatusIs(absl::StatusCode::kCancelled));
        ++ended;
        second_done.Notify();
      });
  second.Cancel();
  gate.open.Notify();
  second_done.WaitForNotification();
  calls_.Shutdown();
  EXPECT_EQ(ended, 2);
}

TEST_F(EmbedderTest, AVideoThatNobodyWaitsForStops) {
  RequestContext context(&clock_, "test");
  absl::Notification done;
  embedder_->Embed(context, model_, {VideoInput{"endless"}}, {},
                   [&](const Results& results) {
                     EXPECT_THAT(results[0],
                                 StatusIs(absl::StatusCode::kCancelled));
                     done.Notify();
                   });
  while (model_->image_batcher()->stats().rows < 50) std::this_thread::yield();
  context.Cancel();
  done.WaitForNotification();
}

TEST_F(EmbedderTest, AModelIsGoneWhenItsLastCallIs) {
  const std::weak_ptr<const Model> watched = model_;
  const RequestContext context(&clock_, "test");
  absl::Notification done;
  embedder_->Embed(context, std::move(model_),
                   {ImageInput{"red"}, TextInput{"x"}, VideoInput{"red"}}, {},
                   [&](const Results& results) {
                     for (const auto& result : results) {
                       EXPECT_THAT(result, IsOk());
                     }
                     done.Notify();
                   });
  done.WaitForNotification();
  calls_.Shutdown();
  EXPECT_TRUE(watched.expired());
}

TEST_F(EmbedderTest, ManyCallersLoseNothing) {
  std::vector<std::thread> callers;
  std::atomic<int> good = 0;
  for (int i = 0; i < 6; ++i) {
    callers.emplace_back([&, i] {
      for (int j = 0; j < 30; ++j) {
        const std::string text = absl::StrCat("text ", i, " ", j % 7);
        const Results results =
            Embed({TextInput{text}, ImageInput{"red"}, VideoInput{"red blue"},
                   ImageInput{"nonsense"}});
        good +=
            results[0].ok() && results[1].ok() && results[2].ok() &&
                    !results[3].ok() &&
                    results[0]->embedding == model_->EmbedText(text)->embedding
                ? 1
                : 0;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(good, 180);
}

// A model that looks for things in pictures of twice its size.
std::shared_ptr<const Model> ModelWithDenseSide(int64_t side) {
  ModelInfo info = MakeFakeModel()->info();
  info.size_multiple = FakeEncoder::kStride;
  info.dense_side = side;
  ImagePreprocessing preprocessing;
  preprocessing.mode = ResizeMode::kCenterCrop;
  preprocessing.width = preprocessing.height = 2 * FakeEncoder::kStride;
  return std::make_shared<const Model>(info, preprocessing,
                                       std::make_unique<FakeTokenizer>(),
                                       std::make_unique<FakeEncoder>());
}

// Reads "3:1" as a picture of 240 x 80 that was 480 x 160.
class WideDecoder final : public ImageDecoder {
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t,
                                 int64_t) const override {
    const bool is_line = encoded == "line";
    Image image{.width = is_line ? 4000 : 240, .height = is_line ? 1 : 80};
    image.rgb.resize(3 * image.width * image.height, 255);
    if (!is_line) {
      image.original_width = 480;
      image.original_height = 160;
    }
    return image;
  }
};

TEST_F(EmbedderTest, LooksAtAllOfAPictureInItsOwnShape) {
  const WideDecoder wide;
  Embedder embedder({}, &wide, nullptr, &calls_);
  const RequestContext context(&clock_, "test");
  const auto grid = [&](int64_t side, absl::string_view picture) {
    Results results = Await<Results>([&](const auto& done) {
      embedder.Embed(context, ModelWithDenseSide(side), {ImageInput{picture}},
                     {.embedding = false, .dense = true, .whole_picture = true},
                     done);
    });
    EXPECT_THAT(results[0], IsOk());
    return *std::move(results[0]);
  };
  // 32 * sqrt(3) is 55.4, 32 / sqrt(3) is 18.5: 7 and 2 cells of 8 pixels.
  const Embedded found = grid(32, "3:1");
  EXPECT_EQ(found.dense.grid_width, 7);
  EXPECT_EQ(found.dense.grid_height, 2);
  EXPECT_EQ(found.width, 480);
  EXPECT_EQ(found.height, 160);
  // No longer than twice the side, whatever the picture.
  const Embedded line = grid(32, "line");
  EXPECT_EQ(line.dense.grid_width, 8);
  EXPECT_EQ(line.dense.grid_height, 2);
  EXPECT_EQ(line.width, 4000);
  EXPECT_EQ(line.height, 1);
  // A model that takes one size: squashed to it, though it would be cropped.
  const Embedded own = grid(0, "3:1");
  EXPECT_EQ(own.dense.grid_width, 2);
  EXPECT_EQ(own.dense.grid_height, 2);
}

TEST_F(EmbedderTest, RunsPicturesOfManySizesTogether) {
  const WideDecoder wide;
  Embedder embedder({}, &wide, nullptr, &calls_);
  const RequestContext context(&clock_, "test");
  const Results results = Await<Results>([&](const auto& done) {
    embedder.Embed(context, ModelWithDenseSide(32),
                   {ImageInput{"3:1"}, ImageInput{"line"}, ImageInput{"3:1"}},
                   {.embedding = false, .dense = true, .whole_picture = true},
                   done);
  });
  std::vector<int64_t> widths;
  for (const auto& result : results) {
    ASSERT_THAT(result, IsOk());
    widths.push_back(result->dense.grid_width);
    EXPECT_EQ(result->dense.values.size(), result->dense.grid_width *
                                               result->dense.grid_height *
                                               result->dense.dimension);
  }
  EXPECT_THAT(widths, ElementsAre(7, 8, 7));
}

}  // namespace
}  // namespace quern
