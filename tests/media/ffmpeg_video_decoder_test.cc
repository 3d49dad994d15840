#include "engine/media/ffmpeg_video_decoder.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/stat.h>

#include "engine/base/clock.h"
#include "engine/media/preprocess.h"
#include "tests/media/pictures.h"

// The clips and what is known of them: tests/data/make_videos.py.

namespace quern {
namespace {

using ::testing::HasSubstr;
using Options = FfmpegVideoDecoder::Options;

constexpr int64_t kWidth = 96;
constexpr int64_t kHeight = 64;
constexpr int64_t kFrameBytes = kWidth * kHeight * 3;

constexpr int kPatches = 4;
constexpr uint8_t kPatchColours[kPatches][3] = {
    {200, 40, 40}, {40, 180, 60}, {40, 60, 200}, {220, 200, 60}};

absl::Status Go() { return absl::OkStatus(); }

std::string ClipPath(absl::string_view name) {
  return absl::StrCat("tests/data/videos/", name);
}

std::string ReadClip(absl::string_view name) {
  return ReadTestData(absl::StrCat("videos/", name));
}

std::unique_ptr<FfmpegVideoDecoder> MakeVideoDecoder(Options options = {}) {
  static const RealClock clock;
  auto decoder = FfmpegVideoDecoder::Create(options, &clock);
  EXPECT_TRUE(decoder.ok()) << decoder.status();
  return std::move(decoder).value();
}

struct Decoded {
  absl::StatusOr<VideoInfo> info;
  std::vector<VideoFrame> frames;
};

Decoded DecodeWith(const VideoDecoder& decoder, const VideoSource& source,
                   const VideoSampling& sampling = {}, int64_t hint_width = 0,
                   int64_t hint_height = 0) {
  Decoded decoded;
  decoded.info = decoder.Decode(source, sampling, hint_width, hint_height, Go,
                                [&](VideoFrame frame) {
                                  decoded.frames.push_back(std::move(frame));
                                  return absl::OkStatus();
                                });
  return decoded;
}

Decoded DecodeBytes(absl::string_view content,
                    const VideoSampling& sampling = {}, Options options = {}) {
  return DecodeWith(*MakeVideoDecoder(options), {.content = content}, sampling);
}

Decoded DecodeClip(absl::string_view name, const VideoSampling& sampling = {},
                   Options options = {}) {
  return DecodeBytes(ReadClip(name), sampling, options);
}

void ExpectInvalid(const Decoded& decoded, absl::string_view message) {
  EXPECT_EQ(decoded.info.status().code(), absl::StatusCode::kInvalidArgument)
      << decoded.info.status();
  EXPECT_THAT(std::string(decoded.info.status().message()),
              HasSubstr(std::string(message)));
}

// The times of each clip's frames, as ffprobe tells them.
const std::map<std::string, std::vector<absl::Duration>>& FrameTimes() {
  static const auto* const times = [] {
    auto* clips = new std::map<std::string, std::vector<absl::Duration>>();
    const std::string lines = ReadClip("frames.tsv");
    for (absl::string_view line :
         absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
      const std::vector<std::string> fields = absl::StrSplit(line, '\t');
      int64_t microseconds = 0;
      EXPECT_TRUE(absl::SimpleAtoi(fields.at(2), &microseconds)) << line;
      (*clips)[fields[0]].push_back(absl::Microseconds(microseconds));
    }
    EXPECT_GT(clips->size(), 20);
    return clips;
  }();
  return *times;
}

std::vector<absl::Duration> TimesOf(absl::string_view name) {
  return FrameTimes().at(std::string(name));
}

// The number drawn on a frame.
int NumberOn(const Image& image) {
  int number = 0;
  for (int64_t bit = 0; bit < 8; ++bit) {
    const int64_t x = (2 * bit + 1) * image.width / 16;
    const int64_t y = image.height / 4;
    const uint8_t red = image.rgb[(y * image.width + x) * 3];
    number = 2 * number + (red > 127 ? 1 : 0);
  }
  return number;
}

// The largest difference of the middle of a patch of colour to what was drawn.
int ColourError(const Image& image) {
  int error = 0;
  for (int64_t patch = 0; patch < kPatches; ++patch) {
    const int64_t x = (2 * patch + 1) * image.width / (2 * kPatches);
    const int64_t y = image.height * 3 / 4;
    for (int64_t band = 0; band < 3; ++band) {
      error =
          std::max(error, std::abs(image.rgb[(y * image.width + x) * 3 + band] -
                                   kPatchColours[patch][band]));
    }
  }
  return error;
}

struct ExpectedFrame {
  int number = 0;
  int64_t samples = 0;
};

// By looking at every frame for every time.
std::vector<ExpectedFrame> ExpectedFrames(
    const std::vector<absl::Duration>& times, absl::Duration duration,
    const VideoSampling& sampling) {
  // Containers round times to a millisecond.
  const absl::Duration slack = absl::Microseconds(600);
  const double seconds = absl::ToDoubleSeconds(duration);
  double step = 1 / sampling.frames_per_second;
  if (step * sampling.max_frames < seconds)
    step = seconds / sampling.max_frames;
  std::vector<ExpectedFrame> expected;
  for (int64_t sample = 0; sample < sampling.max_frames; ++sample) {
    const absl::Duration wanted = absl::Seconds(step * sample);
    if (wanted + absl::Nanoseconds(10) >= duration) break;
    int shown = 0;
    for (size_t i = 0; i < times.size(); ++i) {
      if (times[i] <= wanted + slack) shown = static_cast<int>(i);
    }
    if (expected.empty() || expected.back().number != shown) {
      expected.push_back({.number = shown});
    }
    ++expected.back().samples;
  }
  return expected;
}

void ExpectFrames(const Decoded& decoded,
                  const std::vector<absl::Duration>& times,
                  const std::vector<ExpectedFrame>& expected) {
  ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
  ASSERT_EQ(decoded.frames.size(), expected.size());
  EXPECT_EQ(decoded.info->frames, static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    const VideoFrame& frame = decoded.frames[i];
    EXPECT_EQ(NumberOn(frame.image), expected[i].number) << "frame " << i;
    EXPECT_EQ(frame.samples, expected[i].samples) << "frame " << i;
    EXPECT_LT(absl::AbsDuration(frame.time - times[expected[i].number]),
              absl::Milliseconds(1))
        << "frame " << i;
  }
}

bool IsRotated(absl::string_view name) {
  return absl::StartsWith(name, "rotated_");
}

// --- Which frames, and when --------------------------------------------------

class WholeClipTest : public ::testing::TestWithParam<std::string> {};

TEST_P(WholeClipTest, GivesTheFrameThatIsShownAtEachTime) {
  const std::string content = ReadClip(GetParam());
  const std::vector<absl::Duration> times = TimesOf(GetParam());
  absl::Duration longest_frame = absl::Milliseconds(100);
  for (size_t i = 1; i < times.size(); ++i) {
    longest_frame = std::max(longest_frame, times[i] - times[i - 1]);
  }
  const VideoSampling samplings[] = {
      {.frames_per_second = 2},
      {.frames_per_second = 60, .max_frames = 4096},
      {.frames_per_second = 7, .max_frames = 4096},
      {.frames_per_second = 0.01},
      {.frames_per_second = 60, .max_frames = 1},
      {.frames_per_second = 60, .max_frames = 2},
      {.frames_per_second = 60, .max_frames = 7},
      {.frames_per_second = 25, .max_frames = 30},
  };
  const Options ways[] = {{}, {.threads = 3}, {.min_seek_bytes = 0}};
  for (const VideoSampling& sampling : samplings) {
    for (const Options& options : ways) {
      SCOPED_TRACE(absl::StrCat(sampling.frames_per_second, " fps, at most ",
                                sampling.max_frames, ", threads ",
                                options.threads, ", seeks from ",
                                options.min_seek_bytes));
      const Decoded decoded = DecodeBytes(content, sampling, options);
      ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
      EXPECT_FALSE(decoded.info->is_truncated);
      EXPECT_FALSE(decoded.info->is_damaged);
      const absl::Duration duration = decoded.info->duration;
      // A cap spreads the samples over the length that the header has, which is
      // too short here.
      const bool is_capped =
          sampling.max_frames <
          absl::ToDoubleSeconds(duration) * sampling.frames_per_second;
      if (is_capped && GetParam() == "vfr.mp4") continue;
      EXPECT_GE(duration, times.back());
      EXPECT_LT(duration, times.back() + longest_frame * 2);
      ExpectFrames(decoded, times, ExpectedFrames(times, duration, sampling));
    }
  }
}

std::vector<std::string> WholeClips() {
  std::vector<std::string> names;
  for (const auto& [name, times] : FrameTimes()) {
    // MPEG-PS has the times of some frames only; FFmpeg guesses the others.
    if (!IsRotated(name) && name != "mpeg2.mpg") names.push_back(name);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Clips, WholeClipTest,
                         ::testing::ValuesIn(WholeClips()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (std::isalnum(c) == 0) c = '_';
                           }
                           return name;
                         });

TEST(FfmpegVideoDecoderTest, CountsTheTimesThatALongFrameIsShown) {
  // Frame 0 for 10 ms, ... frame 29 from 4.35 s on.
  const Decoded decoded = DecodeClip("vfr.mp4", {.frames_per_second = 50});
  ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
  EXPECT_GT(decoded.frames.back().samples, 1);
  int64_t samples = 0;
  for (const VideoFrame& frame : decoded.frames) samples += frame.samples;
  const double seconds = absl::ToDoubleSeconds(decoded.info->duration);
  EXPECT_EQ(samples, std::ceil(seconds * 50 - 1e-6));
}

TEST(FfmpegVideoDecoderTest, OneSampleInAgesIsTheFirstFrame) {
  const Decoded decoded = DecodeClip("h264.mp4", {.frames_per_second = 1e-300});
  ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
  ASSERT_EQ(decoded.frames.size(), 1);
  EXPECT_EQ(decoded.frames[0].samples, 1);
}

TEST(FfmpegVideoDecoderTest, DecodesOnlyWhatTheSamplesDependOn) {
  // 60 frames in groups of 12; frame 30 is shown at half time. What is needed:
  // the first frames, those from 24 on, and what the decoder holds back.
  Options options;
  options.limits.max_decoded_bytes = 20 * kFrameBytes;
  for (absl::string_view name :
       {"h264.mp4", "h264.flv", "h264_slow.mkv", "h264_slow.ts",
        "h264_open_gop.mkv", "mpeg2.ts", "vp9.webm", "mjpeg.mov"}) {
    for (int64_t min_seek_bytes : {0, 1 << 20}) {
      options.min_seek_bytes = min_seek_bytes;
      const Decoded decoded =
          DecodeClip(name, {.frames_per_second = 60, .max_frames = 2}, options);
      ASSERT_TRUE(decoded.info.ok()) << name << ": " << decoded.info.status();
      EXPECT_EQ(decoded.frames.size(), 2) << name;
    }
  }
}

TEST(FfmpegVideoDecoderTest, LeavesOutWhatNothingDependsOn) {
  // Frame 30 depends on ten others: the rest before it are B-frames.
  const VideoSampling sampling = {.frames_per_second = 60, .max_frames = 2};
  Options options;
  options.limits.max_decoded_bytes = 20 * kFrameBytes;
  EXPECT_TRUE(DecodeClip("h264_one_key.mp4", sampling, options).info.ok());
  options.limits.max_decoded_bytes = 9 * kFrameBytes;
  ExpectInvalid(DecodeClip("h264_one_key.mp4", sampling, options),
                "more than the limit of 165888 bytes of frames");
}

// --- Pixels ------------------------------------------------------------------

TEST(FfmpegVideoDecoderTest, ShowsFramesAsTheFfmpegProgramDoes) {
  int compared = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(ClipPath("golden"))) {
    const std::string file = entry.path().filename();
    const size_t separator = file.rfind('_');
    const std::string clip = file.substr(0, separator);
    const int number = std::atoi(file.c_str() + separator + 1);
    const Decoded decoded =
        DecodeClip(clip, {.frames_per_second = 60, .max_frames = 4096});
    ASSERT_TRUE(decoded.info.ok()) << clip << ": " << decoded.info.status();
    const absl::Duration time = TimesOf(clip).at(number);
    const Image expected = LoadTestImage(absl::StrCat("videos/golden/", file));
    for (const VideoFrame& frame : decoded.frames) {
      if (absl::AbsDuration(frame.time - time) > absl::Milliseconds(1))
        continue;
      const Difference difference = Compare(frame.image, expected);
      EXPECT_LE(difference.max, 2) << file;
      EXPECT_LE(difference.mean, 0.5) << file;
      ++compared;
    }
  }
  EXPECT_GT(compared, 40);
}

TEST(FfmpegVideoDecoderTest, KeepsTheColoursThatWereDrawn) {
  for (const auto& [name, times] : FrameTimes()) {
    if (IsRotated(name)) continue;
    const Decoded decoded = DecodeClip(name);
    ASSERT_TRUE(decoded.info.ok()) << name << ": " << decoded.info.status();
    for (const VideoFrame& frame : decoded.frames) {
      EXPECT_LE(ColourError(frame.image), 8) << name;
    }
  }
}

TEST(FfmpegVideoDecoderTest, TurnsFramesUpright) {
  const Decoded plain = DecodeClip("h264.mp4");
  ASSERT_TRUE(plain.info.ok());
  const Image& image = plain.frames[0].image;
  const auto pixel = [&](int64_t x, int64_t y) {
    const uint8_t* rgb = &image.rgb[(y * kWidth + x) * 3];
    return std::array<uint8_t, 3>{rgb[0], rgb[1], rgb[2]};
  };
  for (int degrees : {90, 180, 270}) {
    const Decoded decoded =
        DecodeClip(absl::StrCat("rotated_", degrees, ".mp4"));
    ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
    const Image& turned = decoded.frames[0].image;
    const bool is_transposed = degrees != 180;
    ASSERT_EQ(turned.width, is_transposed ? kHeight : kWidth);
    ASSERT_EQ(turned.height, is_transposed ? kWidth : kHeight);
    EXPECT_EQ(decoded.info->width, turned.width);
    EXPECT_EQ(decoded.info->height, turned.height);
    Image expected = {
        .width = turned.width, .height = turned.height, .rgb = {}};
    for (int64_t y = 0; y < turned.height; ++y) {
      for (int64_t x = 0; x < turned.width; ++x) {
        // FFmpeg's degrees go against the clock.
        std::array<uint8_t, 3> rgb =
            pixel(kWidth - 1 - x % kWidth, kHeight - 1 - y % kHeight);
        if (degrees == 90) rgb = pixel(kWidth - 1 - y, x);
        if (degrees == 270) rgb = pixel(y, kHeight - 1 - x);
        expected.rgb.insert(expected.rgb.end(), rgb.begin(), rgb.end());
      }
    }
    EXPECT_EQ(Compare(turned, expected).max, 0) << degrees;
  }
}

TEST(FfmpegVideoDecoderTest, TellsWhatTheVideoIs) {
  const Decoded decoded = DecodeClip("h264_wide_pixels.mp4");
  ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
  EXPECT_EQ(decoded.info->codec, "h264");
  EXPECT_EQ(decoded.info->width, kWidth);
  EXPECT_EQ(decoded.info->height, kHeight);
  EXPECT_EQ(decoded.info->duration, absl::Milliseconds(2400));
  EXPECT_DOUBLE_EQ(decoded.info->pixel_aspect, 2);  // 3:1 on 96 x 64.
  EXPECT_EQ(DecodeClip("h264.mp4").info->pixel_aspect, 1);
  EXPECT_EQ(DecodeClip("hevc_10bit.mp4").info->codec, "hevc");
  EXPECT_EQ(DecodeClip("av1.mp4").info->codec, "av1");
}

TEST(FfmpegVideoDecoderTest, ReducesByAnIntegerButStaysTwiceAsLargeAsAsked) {
  const auto decoder = MakeVideoDecoder();
  struct Case {
    std::string name;
    int64_t hint_width, hint_height;
    int64_t width, height;
  };
  const Case cases[] = {
      {"h264.mp4", 24, 16, 48, 32},       {"h264.mp4", 24, 17, 96, 64},
      {"h264.mp4", 12, 8, 24, 16},        {"h264.mp4", 1, 1, 12, 8},
      {"h264.mp4", 12, 0, 96, 64},        {"rotated_90.mp4", 16, 24, 32, 48},
      {"rotated_90.mp4", 24, 16, 64, 96},
  };
  for (const Case& reduced : cases) {
    const std::string content = ReadClip(reduced.name);
    const Decoded decoded = DecodeWith(*decoder, {.content = content}, {},
                                       reduced.hint_width, reduced.hint_height);
    ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
    EXPECT_EQ(decoded.frames[0].image.width, reduced.width);
    EXPECT_EQ(decoded.frames[0].image.height, reduced.height);
    EXPECT_EQ(decoded.info->width * decoded.info->height, kWidth * kHeight);
  }
}

// --- Real videos -------------------------------------------------------------

std::string SamplePath(absl::string_view name) {
  const char* cache = std::getenv("QUERN_CACHE");
  return absl::StrCat(cache == nullptr ? "" : cache, "/samples/videos/", name);
}

TEST(FfmpegVideoDecoderTest, DecodesRealVideos) {
  if (!std::filesystem::exists(SamplePath("bigbuckbunny.mp4"))) {
    GTEST_SKIP() << "no sample videos: run scripts/setup";
  }
  const auto decoder = MakeVideoDecoder({.threads = 2});
  // As ffprobe has it.
  struct Case {
    std::string name;
    int64_t width, height;
    absl::Duration duration;
  };
  const Case cases[] = {
      {"bigbuckbunny.mp4", 1280, 720, absl::Milliseconds(5280)},
      {"bikes.mp4", 640, 272, absl::Seconds(10)},
      {"carphone_pristine.mp4", 176, 144, absl::Microseconds(4004000)},
  };
  for (const Case& sample : cases) {
    const Decoded decoded =
        DecodeWith(*decoder, {.path = SamplePath(sample.name)});
    ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
    EXPECT_EQ(decoded.info->width, sample.width) << sample.name;
    EXPECT_EQ(decoded.info->height, sample.height) << sample.name;
    EXPECT_EQ(decoded.info->duration, sample.duration) << sample.name;
    EXPECT_EQ(decoded.frames.size(),
              std::ceil(absl::ToDoubleSeconds(sample.duration) * 2));
    EXPECT_FALSE(decoded.info->is_damaged || decoded.info->is_truncated);
  }
}

// Small frames are decoded by one thread whatever is asked for.
TEST(FfmpegVideoDecoderTest, ThreadsOfTheCodecChangeNothing) {
  const VideoSource source = {.path = SamplePath("bigbuckbunny.mp4")};
  if (!std::filesystem::exists(source.path)) {
    GTEST_SKIP() << "no sample videos: run scripts/setup";
  }
  const VideoSampling sampling = {.frames_per_second = 60, .max_frames = 4};
  const Decoded expected = DecodeWith(*MakeVideoDecoder(), source, sampling);
  for (int threads : {2, 5}) {
    const Decoded decoded =
        DecodeWith(*MakeVideoDecoder({.threads = threads}), source, sampling);
    ASSERT_TRUE(expected.info.ok() && decoded.info.ok());
    ASSERT_EQ(decoded.frames.size(), 4);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(decoded.frames[i].time, expected.frames[i].time);
      EXPECT_EQ(decoded.frames[i].image.rgb, expected.frames[i].image.rgb);
    }
  }
}

TEST(FfmpegVideoDecoderTest, AReducedFrameLooksTheSame) {
  const VideoSource source = {.path = SamplePath("bigbuckbunny.mp4")};
  if (!std::filesystem::exists(source.path)) {
    GTEST_SKIP() << "no sample videos: run scripts/setup";
  }
  const auto decoder = MakeVideoDecoder();
  const Decoded full = DecodeWith(*decoder, source);
  const Decoded reduced = DecodeWith(*decoder, source, {}, 112, 112);
  ASSERT_TRUE(full.info.ok() && reduced.info.ok());
  ASSERT_EQ(full.frames.size(), reduced.frames.size());
  for (size_t i = 0; i < full.frames.size(); ++i) {
    ASSERT_EQ(reduced.frames[i].image.width, 640);
    EXPECT_EQ(reduced.frames[i].time, full.frames[i].time);
    const Difference difference = Compare(
        Resize(full.frames[i].image, 112, 112, ResizeFilter::kBicubic),
        Resize(reduced.frames[i].image, 112, 112, ResizeFilter::kBicubic));
    EXPECT_LT(difference.mean, 2);
  }
}

// --- Sources -----------------------------------------------------------------

TEST(FfmpegVideoDecoderTest, AFileGivesWhatItsBytesGive) {
  const auto decoder = MakeVideoDecoder();
  for (absl::string_view name :
       {"h264.mp4", "vfr.mkv", "mpeg2.ts", "cut.mp4"}) {
    const std::string content = ReadClip(name);
    const Decoded bytes = DecodeWith(*decoder, {.content = content});
    const Decoded file = DecodeWith(*decoder, {.path = ClipPath(name)});
    ASSERT_TRUE(bytes.info.ok() && file.info.ok()) << name;
    EXPECT_EQ(bytes.info->duration, file.info->duration);
    EXPECT_EQ(bytes.info->is_truncated, file.info->is_truncated);
    ASSERT_EQ(bytes.frames.size(), file.frames.size()) << name;
    for (size_t i = 0; i < bytes.frames.size(); ++i) {
      EXPECT_EQ(bytes.frames[i].time, file.frames[i].time);
      EXPECT_EQ(bytes.frames[i].image.rgb, file.frames[i].image.rgb);
    }
  }
}

TEST(FfmpegVideoDecoderTest, TakesExactlyOneSource) {
  const auto decoder = MakeVideoDecoder();
  ExpectInvalid(DecodeWith(*decoder, {}), "the video is empty");
  ExpectInvalid(DecodeWith(*decoder, {.content = "x", .path = "y"}),
                "either content or a path");
}

TEST(FfmpegVideoDecoderTest, OpensRegularFilesOnly) {
  const auto decoder = MakeVideoDecoder();
  const Decoded missing =
      DecodeWith(*decoder, {.path = ClipPath("missing.mp4")});
  EXPECT_EQ(missing.info.status().code(), absl::StatusCode::kNotFound);
  ExpectInvalid(DecodeWith(*decoder, {.path = ClipPath("golden")}),
                "not a regular file");
  const std::string pipe =
      absl::StrCat(::testing::TempDir(), "/video_decoder_pipe");
  std::filesystem::remove(pipe);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  ExpectInvalid(DecodeWith(*decoder, {.path = pipe}), "not a regular file");
  std::filesystem::remove(pipe);
  // FFmpeg would take these for protocols.
  for (absl::string_view url :
       {"http://127.0.0.1:1/x.mp4", "concat:tests/data/videos/h264.mp4",
        "file:tests/data/videos/h264.mp4", "pipe:0"}) {
    const Decoded decoded = DecodeWith(*decoder, {.path = std::string(url)});
    EXPECT_EQ(decoded.info.status().code(), absl::StatusCode::kNotFound) << url;
  }
}

// --- Broken videos -----------------------------------------------------------

TEST(FfmpegVideoDecoderTest, UsesWhatComesBeforeABrokenTail) {
  const std::pair<std::string, std::string> cases[] = {
      {"cut.mp4", "h264.mp4"},
      {"cut.mkv", "h264_open_gop.mkv"},
      {"cut.ts", "h264_slow.ts"}};
  const VideoSampling all = {.frames_per_second = 25, .max_frames = 4096};
  for (const auto& [cut, whole] : cases) {
    const Decoded expected = DecodeClip(whole, all);
    const Decoded decoded = DecodeClip(cut, all);
    ASSERT_TRUE(decoded.info.ok()) << cut << ": " << decoded.info.status();
    ASSERT_GT(decoded.frames.size(), 15) << cut;
    ASSERT_LT(decoded.frames.size(), 55) << cut;
    // The tail of a transport stream leaves no trace in what comes before.
    EXPECT_EQ(decoded.info->is_truncated, cut != "cut.ts") << cut;
    EXPECT_LE(decoded.info->duration, expected.info->duration) << cut;
    // The last frames may be incomplete.
    for (size_t i = 0; i + 4 < decoded.frames.size(); ++i) {
      EXPECT_EQ(decoded.frames[i].time, expected.frames[i].time) << cut;
      EXPECT_EQ(NumberOn(decoded.frames[i].image),
                NumberOn(expected.frames[i].image))
          << cut << " " << i;
    }
  }
}

TEST(FfmpegVideoDecoderTest, NoticesACutThatNoSampleReaches) {
  const Decoded decoded = DecodeClip("cut.mp4", {.max_frames = 1});
  ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
  EXPECT_TRUE(decoded.info->is_truncated);
}

TEST(FfmpegVideoDecoderTest, GoesOnBehindACorruptMiddle) {
  for (const auto& [corrupt, whole] :
       {std::pair("corrupt_middle.mp4", "h264.mp4"),
        std::pair("corrupt_middle.ts", "mpeg2.ts")}) {
    for (double rate : {25.0, 5.0}) {
      const VideoSampling sampling = {.frames_per_second = rate};
      const Decoded expected = DecodeClip(whole, sampling);
      const Decoded decoded = DecodeClip(corrupt, sampling);
      ASSERT_TRUE(decoded.info.ok()) << corrupt << decoded.info.status();
      if (corrupt == absl::string_view("corrupt_middle.mp4") && rate == 25) {
        EXPECT_TRUE(decoded.info->is_damaged);
      }
      EXPECT_FALSE(decoded.info->is_truncated) << corrupt;
      EXPECT_EQ(NumberOn(decoded.frames.front().image), 0);
      EXPECT_EQ(decoded.frames.back().time, expected.frames.back().time);
      EXPECT_EQ(NumberOn(decoded.frames.back().image),
                NumberOn(expected.frames.back().image))
          << corrupt;
      for (size_t i = 1; i < decoded.frames.size(); ++i) {
        EXPECT_GT(decoded.frames[i].time, decoded.frames[i - 1].time);
      }
    }
  }
}

TEST(FfmpegVideoDecoderTest, RefusesWhatHasNoFrames) {
  ExpectInvalid(DecodeClip("audio_only.mp4"), "the file has no video stream");
  ExpectInvalid(DecodeClip("no_frames.mp4"), "no frame that can be decoded: ");
  ExpectInvalid(DecodeClip("no_frame_decodes.mp4"),
                "no frame that can be decoded: ");
}

TEST(FfmpegVideoDecoderTest, RefusesWhatIsNoVideo) {
  const auto decoder = MakeVideoDecoder();
  for (absl::string_view text :
       {"x", "Just a text file that somebody named .mp4\n",
        "ffconcat version 1.0\nfile tests/data/videos/h264.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
        "tests/data/videos/h264_slow.ts\n#EXT-X-ENDLIST\n",
        "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"/>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
        "t=0 0\nm=video 5004 RTP/AVP 96\n"}) {
    ExpectInvalid(DecodeWith(*decoder, {.content = text}),
                  "not a video in a known container (MP4/MOV, Matroska/WebM,");
  }
  for (absl::string_view name :
       {"photo.jpg", "photo.png", "animated.gif", "photo.webp", "photo.tiff"}) {
    const std::string picture = ReadTestData(absl::StrCat("pictures/", name));
    ExpectInvalid(DecodeWith(*decoder, {.content = picture}),
                  "not a video in a known container");
  }
}

TEST(FfmpegVideoDecoderTest, SurvivesDamageAnywhere) {
  Options options;
  options.limits.max_pixels = 1'000'000;
  options.limits.max_decoded_bytes = 200 * kFrameBytes;
  options.min_seek_bytes = 0;
  const auto decoder = MakeVideoDecoder(options);
  std::mt19937 random(11);
  for (absl::string_view name :
       {"h264.mp4", "h264.flv", "vfr.mkv", "hevc_10bit.mp4", "vp8.webm",
        "vp9.webm", "av1.mp4", "mpeg4.avi", "mpeg2.ts", "mpeg2.mpg",
        "mjpeg.mov"}) {
    const std::string content = ReadClip(name);
    for (int round = 0; round < 30; ++round) {
      std::string damaged = content;
      if (round % 3 == 0) damaged.resize(1 + random() % content.size());
      for (int flips = 0; flips < 1 + round; ++flips) {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
      const Decoded decoded =
          DecodeWith(*decoder, {.content = damaged}, {.max_frames = 5}, 8, 8);
      EXPECT_LE(decoded.frames.size(), 5);
      if (!decoded.info.ok()) {
        EXPECT_EQ(decoded.info.status().code(),
                  absl::StatusCode::kInvalidArgument)
            << name << ": " << decoded.info.status();
      }
    }
  }
}

TEST(FfmpegVideoDecoderTest, WritesNothingToTheConsole) {
  ::testing::internal::CaptureStderr();
  for (absl::string_view name :
       {"h264.mp4", "corrupt_middle.mp4", "corrupt_middle.ts", "cut.mkv",
        "no_frame_decodes.mp4", "audio_only.mp4", "mjpeg.mov"}) {
    DecodeClip(name);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// --- Limits ------------------------------------------------------------------

TEST(FfmpegVideoDecoderTest, RefusesEnormousFrames) {
  ExpectInvalid(DecodeClip("header_16000.mp4"),
                "the video is 16000 x 16000 pixels, over the limit of 36000000 "
                "pixels a frame");
  // The header is modest, the frames are not.
  ExpectInvalid(DecodeClip("frames_16000.mov"),
                "no frame that can be decoded: ");
}

TEST(FfmpegVideoDecoderTest, RefusesOrSamplesTenHours) {
  ExpectInvalid(DecodeClip("ten_hours.mp4"),
                "the video lasts 10h, over the limit of 4h");
  Options options;
  options.limits.max_duration = absl::Hours(10);
  const Decoded decoded =
      DecodeClip("ten_hours.mp4", {.max_frames = 20}, options);
  ASSERT_TRUE(decoded.info.ok()) << decoded.info.status();
  ASSERT_EQ(decoded.frames.size(), 20);
  // Ten minutes a frame, half an hour from sample to sample.
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(NumberOn(decoded.frames[i].image), 3 * i);
    EXPECT_EQ(decoded.frames[i].time, absl::Minutes(30 * i));
  }
}

TEST(FfmpegVideoDecoderTest, AppliesEachLimitExactly) {
  const std::string content = ReadClip("h264.mp4");
  const int64_t size = static_cast<int64_t>(content.size());
  const auto decode = [&](const VideoLimits& limits) {
    return DecodeBytes(content, {}, {.limits = limits});
  };
  EXPECT_TRUE(decode({.max_bytes = size}).info.ok());
  ExpectInvalid(decode({.max_bytes = size - 1}),
                absl::StrCat("the video has ", size,
                             " bytes, over the limit of ", size - 1));
  EXPECT_TRUE(decode({.max_pixels = kWidth * kHeight}).info.ok());
  ExpectInvalid(decode({.max_pixels = kWidth * kHeight - 1}),
                "the video is 96 x 64 pixels, over the limit of 6143 pixels");
  EXPECT_TRUE(decode({.max_duration = absl::Milliseconds(2400)}).info.ok());
  ExpectInvalid(decode({.max_duration = absl::Milliseconds(2399)}),
                "the video lasts 2.4s, over the limit of 2.399s");
  ExpectInvalid(decode({.max_decoded_bytes = 3 * kFrameBytes}),
                "more than the limit of 55296 bytes of frames must be decoded");
}

// A video that decodes for ever: each look at the clock finds it a second on.
TEST(FfmpegVideoDecoderTest, EndsWhenDecodingTakesTooLong) {
  FakeClock clock(absl::UnixEpoch());
  Options options;
  options.limits.max_decode_time = absl::Seconds(20);
  const auto decoder = FfmpegVideoDecoder::Create(options, &clock);
  ASSERT_TRUE(decoder.ok());
  const std::string content = ReadClip("h264.mp4");
  int frames = 0;
  const auto info = (*decoder)->Decode(
      {.content = content}, {.frames_per_second = 25}, 0, 0,
      [&] {
        clock.Advance(absl::Seconds(1));
        return absl::OkStatus();
      },
      [&](VideoFrame) {
        ++frames;
        return absl::OkStatus();
      });
  EXPECT_EQ(info.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(info.status().message()),
              HasSubstr("longer than the limit of 20s"));
  EXPECT_LT(frames, 60);
}

TEST(FfmpegVideoDecoderTest, TheTakersTimeIsNotTheDecoders) {
  FakeClock clock(absl::UnixEpoch());
  Options options;
  options.limits.max_decode_time = absl::Seconds(20);
  const auto decoder = FfmpegVideoDecoder::Create(options, &clock);
  ASSERT_TRUE(decoder.ok());
  const std::string content = ReadClip("h264.mp4");
  const auto info =
      (*decoder)->Decode({.content = content}, {}, 0, 0, Go, [&](VideoFrame) {
        clock.Advance(absl::Hours(1));
        return absl::OkStatus();
      });
  EXPECT_TRUE(info.ok()) << info.status();
}

TEST(FfmpegVideoDecoderTest, RefusesASamplingOutOfRange) {
  for (double rate : {0.0, -1.0, 60.1, std::nan("")}) {
    ExpectInvalid(DecodeClip("h264.mp4", {.frames_per_second = rate}),
                  "frames_per_second");
  }
  for (int64_t frames : {0, -1, 4097}) {
    ExpectInvalid(DecodeClip("h264.mp4", {.max_frames = frames}), "max_frames");
  }
}

TEST(FfmpegVideoDecoderTest, RefusesOptionsOutOfRange) {
  const RealClock clock;
  const Options wrong[] = {
      {.limits = {.max_bytes = 0}},
      {.limits = {.max_pixels = 0}},
      {.limits = {.max_duration = absl::ZeroDuration()}},
      {.limits = {.max_duration = absl::InfiniteDuration()}},
      {.limits = {.max_decoded_bytes = -1}},
      {.limits = {.max_decode_time = absl::ZeroDuration()}},
      {.threads = 0},
      {.threads = 65},
      {.min_seek_bytes = -1},
  };
  for (const Options& options : wrong) {
    EXPECT_EQ(FfmpegVideoDecoder::Create(options, &clock).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

// --- Stopping, and threads ---------------------------------------------------

TEST(FfmpegVideoDecoderTest, StopsAtWhateverPointTheCheckFails) {
  const auto decoder = MakeVideoDecoder();
  for (absl::string_view name : {"h264.mp4", "mpeg2.ts"}) {
    const std::string content = ReadClip(name);
    int stops = 0;
    bool stopped = true;
    while (stopped) {
      int calls = 0;
      const auto info = decoder->Decode(
          {.content = content}, {}, 0, 0,
          [&] {
            return ++calls > stops ? absl::CancelledError("the caller left")
                                   : absl::OkStatus();
          },
          [&](VideoFrame) { return absl::OkStatus(); });
      stopped = !info.ok();
      if (stopped) {
        EXPECT_EQ(info.status(), absl::CancelledError("the caller left"));
        EXPECT_EQ(calls, stops + 1) << "asked again after an error";
      }
      ++stops;
    }
    EXPECT_GT(stops, 20) << name;
  }
}

TEST(FfmpegVideoDecoderTest, StopsWhenTheFrameIsNotTaken) {
  const std::string content = ReadClip("h264.mp4");
  int frames = 0;
  const auto info = MakeVideoDecoder()->Decode(
      {.content = content}, {}, 0, 0, Go, [&](VideoFrame) {
        return ++frames < 2 ? absl::OkStatus() : absl::AbortedError("enough");
      });
  EXPECT_EQ(info.status(), absl::AbortedError("enough"));
  EXPECT_EQ(frames, 2);
}

TEST(FfmpegVideoDecoderTest, DecodesOnManyThreads) {
  const auto decoder = MakeVideoDecoder();
  const std::vector<std::string> names = {"h264.mp4", "hevc_10bit.mp4",
                                          "vp9.webm", "av1.mp4",
                                          "mpeg2.ts", "no_frame_decodes.mp4"};
  std::vector<std::string> contents;
  std::vector<Decoded> expected;
  for (const std::string& name : names) {
    contents.push_back(ReadClip(name));
    expected.push_back(DecodeWith(*decoder, {.content = contents.back()}));
  }
  std::vector<std::thread> threads;
  threads.reserve(names.size());
  for (size_t thread = 0; thread < names.size(); ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t round = 0; round < 2 * names.size(); ++round) {
        const size_t clip = (thread + round) % names.size();
        const Decoded decoded =
            DecodeWith(*decoder, {.content = contents[clip]});
        EXPECT_EQ(decoded.info.status(), expected[clip].info.status());
        ASSERT_EQ(decoded.frames.size(), expected[clip].frames.size());
        for (size_t i = 0; i < decoded.frames.size(); ++i) {
          EXPECT_EQ(decoded.frames[i].image.rgb,
                    expected[clip].frames[i].image.rgb);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quern
