// Things in pictures and moments in videos, found over a collection with the
// real server and the real model. The media are made here, so that where things
// are is known.

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/fine/overlap.h"
#include "engine/media/ffmpeg_video_decoder.h"
#include "engine/media/image_writer.h"
#include "engine/media/vips_image_decoder.h"
#include "tests/end_to_end/api.h"
#include "tests/support/motion_jpeg.h"
#include "tests/support/quernd_process.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::SizeIs;

constexpr int64_t kSide = 448;   // Pixels of a scene.
constexpr int64_t kPatch = 224;  // Pixels of what is pasted into it.

std::string ReadSample(const std::string& name) {
  const std::string path =
      absl::StrCat(std::getenv("QUERN_CACHE"), "/samples/", name);
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// To the nearest pixel, whatever the aspect.
Image Resized(const Image& image, int64_t width, int64_t height) {
  Image resized{.width = width, .height = height};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const int64_t source =
          (y * image.height / height) * image.width + x * image.width / width;
      resized.rgb.insert(resized.rgb.end(), image.rgb.begin() + source * 3,
                         image.rgb.begin() + source * 3 + 3);
    }
  }
  return resized;
}

void Paste(const Image& patch, int64_t left, int64_t top, Image& image) {
  for (int64_t y = 0; y < patch.height; ++y) {
    const auto row = patch.rgb.begin() + y * patch.width * 3;
    std::copy(row, row + patch.width * 3,
              image.rgb.begin() + ((top + y) * image.width + left) * 3);
  }
}

Image Stamp(const std::string& name) {
  const auto decoder = ValueOrDie(VipsImageDecoder::Create({}));
  return ValueOrDie(
      decoder->Decode(ReadSample(absl::StrCat("pictures/", name))));
}

// A street, from a video.
Image Background() {
  static const RealClock clock;
  const auto decoder = ValueOrDie(FfmpegVideoDecoder::Create({}, &clock));
  const std::string video = ReadSample("videos/bikes.mp4");
  Image first;
  ValueOrDie(decoder->Decode(
      {.content = video}, {.max_frames = 1}, kSide, kSide,
      [] { return absl::OkStatus(); },
      [&](VideoFrame frame) {
        first = std::move(frame.image);
        return absl::OkStatus();
      }));
  return Resized(first, kSide, kSide);
}

std::string Jpeg(const Image& image) {
  constexpr int kQuality = 92;
  return ValueOrDie(EncodeJpeg(image, kQuality));
}

struct Thing {
  std::string stamp;
  std::string text;
  int64_t left = 0;  // Where it is pasted.
  int64_t top = 0;
};

const std::vector<Thing>& Things() {
  static const auto* const kThings = new std::vector<Thing>{
      {"animals/birds/pink_flamingo.png", "a flamingo", 0, 224},
      {"food/fruit/banana.png", "a banana", 224, 0},
      {"vehicles/flight/balloon360.png", "a hot air balloon", 224, 224}};
  return *kThings;
}

// A server with a collection that keeps parts.
class PartSearchTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = std::make_unique<QuerndProcess>(data_.path());
    ASSERT_TRUE(server_->ready()) << server_->Log();
    api_ = std::make_unique<Api>(*server_);
    v1::CreateCollectionRequest create;
    create.mutable_collection()->set_name("c");
    create.mutable_collection()->mutable_parts()->set_dense(
        v1::PartsConfig::DENSE_7X7);
    grpc::ClientContext context;
    Api::SetDeadline(context);
    v1::Collection created;
    ASSERT_TRUE(v1::Collections::NewStub(api_->channel())
                    ->Create(&context, create, &created)
                    .ok());
  }

  void Put(const v1::UpsertRequest& request) {
    const auto status = api_->UpsertOne(request);
    ASSERT_EQ(status.code(), 0) << status.message();
  }

  v1::SearchResponse Find(const std::string& text, v1::Granularity granularity,
                          float min_probability = 0) {
    v1::SearchRequest request = TextSearch("c", text);
    request.set_granularity(granularity);
    request.set_min_probability(min_probability);
    request.mutable_group_by()->set_field("id");
    v1::SearchResponse response;
    const grpc::Status status = api_->Search(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_FALSE(response.report().degraded());
    return response;
  }

  TemporaryDirectory data_;
  std::unique_ptr<QuerndProcess> server_;
  std::unique_ptr<Api> api_;
};

TEST_F(PartSearchTest, AStampPastedOnAStreetIsFoundWhereItIs) {
  const Image street = Background();
  Put(ImageUpsert("c", "street", Jpeg(street)));
  for (const Thing& thing : Things()) {
    Image scene = street;
    Paste(Resized(Stamp(thing.stamp), kPatch, kPatch), thing.left, thing.top,
          scene);
    Put(ImageUpsert("c", thing.stamp, Jpeg(scene)));
  }
  for (const Thing& thing : Things()) {
    const v1::SearchResponse found = Find(thing.text, v1::GRANULARITY_REGION);
    ASSERT_THAT(found.hits(), SizeIs(4));
    const v1::Hit& hit = found.hits(0);
    EXPECT_EQ(hit.item().id(), thing.stamp);
    ASSERT_THAT(hit.evidence(), SizeIs(1));
    const v1::Box& box = hit.evidence(0).box();
    const auto share = [](int64_t pixels) {
      return static_cast<float>(pixels) / static_cast<float>(kSide);
    };
    EXPECT_GT(Iou(Box{box.left(), box.top(), box.right(), box.bottom()},
                  Box{share(thing.left), share(thing.top),
                      share(thing.left + kPatch), share(thing.top + kPatch)}),
              0.5)
        << thing.text << "\n"
        << box.DebugString();
    EXPECT_TRUE(hit.has_probability());
    EXPECT_EQ(hit.item().parts().width(), kSide);
  }
  const v1::SearchResponse absent =
      Find("a violin", v1::GRANULARITY_REGION, 0.9F);
  EXPECT_THAT(absent.hits(), SizeIs(0)) << absent.DebugString();
}

TEST_F(PartSearchTest, TheSecondsThatShowAThingAreFound) {
  // Three seconds of one thing, then four of another one, then three.
  constexpr int kFramesPerSecond = 4;
  const std::vector<int> seconds = {3, 4, 3};
  std::vector<std::string> frames;
  std::vector<std::pair<double, double>> spans;
  for (size_t i = 0; i < Things().size(); ++i) {
    const std::string jpeg =
        Jpeg(Resized(Stamp(Things()[i].stamp), kPatch, kPatch));
    spans.emplace_back(frames.size() / kFramesPerSecond,
                       frames.size() / kFramesPerSecond + seconds[i]);
    frames.insert(frames.end(), seconds[i] * kFramesPerSecond, jpeg);
  }
  v1::UpsertRequest upsert;
  upsert.set_collection("c");
  upsert.set_id("things");
  upsert.mutable_video()->set_content(
      MotionJpegAvi(frames, kPatch, kPatch, kFramesPerSecond));
  Put(upsert);
  upsert.set_id("rabbit");
  upsert.mutable_video()->set_content(ReadSample("videos/bigbuckbunny.mp4"));
  Put(upsert);
  Put(ImageUpsert("c", "picture", Jpeg(Stamp(Things()[0].stamp))));
  for (size_t i = 0; i < Things().size(); ++i) {
    const v1::SearchResponse found =
        Find(Things()[i].text, v1::GRANULARITY_SEGMENT);
    ASSERT_THAT(found.hits(), SizeIs(2));
    EXPECT_EQ(found.hits(0).item().id(), "things");
    ASSERT_THAT(found.hits(0).evidence(), SizeIs(1));
    const v1::TimeSpan& span = found.hits(0).evidence(0).span();
    const auto in_seconds = [](const google::protobuf::Duration& duration) {
      return static_cast<double>(duration.seconds()) + duration.nanos() / 1e9;
    };
    EXPECT_NEAR(in_seconds(span.start()), spans[i].first, 0.51)
        << Things()[i].text;
    EXPECT_NEAR(in_seconds(span.end()), spans[i].second, 0.51)
        << Things()[i].text;
  }
  const v1::SearchResponse absent =
      Find("a violin", v1::GRANULARITY_SEGMENT, 0.9F);
  EXPECT_THAT(absent.hits(), SizeIs(0)) << absent.DebugString();
}

}  // namespace
}  // namespace quern
