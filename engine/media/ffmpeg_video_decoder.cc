#include "engine/media/ffmpeg_video_decoder.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/avstring.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr char kContainers[] = "mov,matroska,avi,mpegts,mpeg,flv,ogg";
constexpr char kContainerNames[] =
    "MP4/MOV, Matroska/WebM, AVI, MPEG-TS, MPEG-PS, FLV, Ogg";

// FFmpeg's names of the decoders that may run.
constexpr char kDecoders[] =
    "h264,hevc,vp8,vp9,libdav1d,mpeg1video,mpeg2video,mpeg4,mjpeg";
constexpr char kCodecNames[] =
    "H.264, HEVC, VP8, VP9, AV1, MPEG-1, MPEG-2, MPEG-4, MJPEG";

constexpr int kIoBufferBytes = 64 << 10;
constexpr int kMaxStreams = 64;
constexpr size_t kMaxReasonBytes = 200;
constexpr int kBands = 3;
constexpr int kAlignment = 64;  // Of rows, for the widest vector instructions.

// Below this, threads cost more than they bring.
constexpr int64_t kMinPixelsForThreads = int64_t{640} * 360;

// From this height on an untagged stream is taken for BT.709.
constexpr int kHdHeight = 720;

// Packets waiting to be judged; when there are more they are decoded.
constexpr int64_t kMaxQueueBytes = int64_t{32} << 20;
constexpr size_t kMaxQueuePackets = 8192;

// Failures of the demuxer in a row after which the rest is given up.
constexpr int kMaxReadErrors = 100;

// How often to start further back when a key frame turned out to be none,
// before everything is decoded.
constexpr int kMaxStepsBack = 6;
constexpr int64_t kFirstStepBackNs = 2'000'000'000;

// A first time so much earlier than the first frame's is taken for an error.
constexpr int64_t kMaxLostStartNs = 60'000'000'000;

// Without an index, a gap longer than this is jumped over.
constexpr int64_t kBlindSeekNs = 10'000'000'000;

// A sample so near to the end is not taken.
constexpr int64_t kEndSlackNs = 10;

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr AVRational kNanoseconds = {1, 1'000'000'000};
constexpr int64_t kNoTime = std::numeric_limits<int64_t>::min();

// The greatest max_duration, 10,000 hours: sums of a few such times do not
// overflow.
constexpr int64_t kLongestNs = 36'000'000 * kSecondNs;

// --- Ownership ---------------------------------------------------------------

struct Deleter {
  void operator()(AVFormatContext* format) const {
    avformat_close_input(&format);
  }
  void operator()(AVIOContext* io) const {
    av_freep(&io->buffer);
    avio_context_free(&io);
  }
  void operator()(AVCodecContext* codec) const { avcodec_free_context(&codec); }
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
  void operator()(SwsContext* context) const { sws_freeContext(context); }
  void operator()(uint8_t* memory) const { av_free(memory); }
};
template <typename T>
using Owned = std::unique_ptr<T, Deleter>;

absl::Status OutOfMemory() {
  return absl::ResourceExhaustedError("no memory to decode a video");
}

// --- FFmpeg's log ------------------------------------------------------------

// The first complaint of FFmpeg on this thread since it was last taken; what
// FFmpeg's own threads say is lost.
thread_local std::string* log_sink = nullptr;

void KeepFirstError(void* /*source*/, int level, const char* format,
                    va_list arguments) {
  if (level > AV_LOG_ERROR || log_sink == nullptr || !log_sink->empty()) return;
  std::array<char, kMaxReasonBytes> line;
  std::vsnprintf(line.data(), line.size(), format, arguments);
  *log_sink = line.data();
}

class LogCapture {
 public:
  LogCapture() {
    static const bool installed = [] {
      av_log_set_callback(KeepFirstError);
      return true;
    }();
    static_cast<void>(installed);
    log_sink = &line_;
  }
  ~LogCapture() { log_sink = nullptr; }

  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // The complaint, or what `error` means in general.
  std::string Reason(int error) const {
    absl::string_view reason = absl::StripAsciiWhitespace(line_);
    if (!reason.empty()) return absl::Utf8SafeCHexEscape(reason);
    std::array<char, kMaxReasonBytes> text;
    av_strerror(error, text.data(), text.size());
    return text.data();
  }

 private:
  std::string line_;
};

// --- Limits ------------------------------------------------------------------

absl::Status CheckAtLeastOne(absl::string_view field, int64_t value) {
  if (value >= 1) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(value, " is less than 1"));
}

absl::Status CheckPositive(absl::string_view field, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat(absl::FormatDuration(value), " is not above zero"));
}

absl::Status CheckSampling(const VideoSampling& sampling) {
  const double rate = sampling.frames_per_second;
  if (!(rate > 0 && rate <= 60)) {
    return InvalidField("frames_per_second",
                        absl::StrCat(rate, " is not above 0 and up to 60"));
  }
  if (sampling.max_frames < 1 || sampling.max_frames > 4096) {
    return InvalidField(
        "max_frames", absl::StrCat(sampling.max_frames, " is not in 1..4096"));
  }
  return absl::OkStatus();
}

absl::Status CheckPixels(int64_t width, int64_t height,
                         const VideoLimits& limits) {
  if (width <= 0 || height <= 0 || width <= limits.max_pixels / height) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the video is ", width, " x ", height, " pixels, over the limit of ",
      limits.max_pixels, " pixels a frame"));
}

// Codecs count what they allocate, rows padded to whole vectors included. This
// bounds their memory; CheckPixels() applies the limit exactly.
int64_t CodecMaxPixels(const VideoLimits& limits) {
  return av_sat_add64(limits.max_pixels, limits.max_pixels) + (1 << 16);
}

absl::Status CheckDuration(int64_t duration_ns, const VideoLimits& limits) {
  const absl::Duration duration = absl::Nanoseconds(duration_ns);
  if (duration <= limits.max_duration) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the video lasts ",
      absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1))),
      ", over the limit of ", absl::FormatDuration(limits.max_duration)));
}

// Asks whether to go on: the caller's `check`, and the wall time.
class Watch {
 public:
  Watch(const Clock* clock, absl::Duration limit,
        absl::FunctionRef<absl::Status()> check)
      : clock_(*clock),
        limit_(limit),
        check_(check),
        deadline_(clock->Now() + limit) {}

  absl::Status Check() {
    if (!status_.ok()) return status_;
    status_ = check_();
    if (status_.ok() && clock_.Now() > deadline_) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("decoding the video takes longer than the limit of ",
                       absl::FormatDuration(limit_),
                       "; ask for fewer frames, or send a "
                       "shorter or smaller video"));
    }
    return status_;
  }

  // The time that `call` takes does not count.
  template <typename Call>
  auto Uncounted(Call call) {
    const absl::Time start = clock_.Now();
    auto result = call();
    deadline_ += clock_.Now() - start;
    return result;
  }

  const absl::Status& status() const { return status_; }

 private:
  const Clock& clock_;
  const absl::Duration limit_;
  const absl::FunctionRef<absl::Status()> check_;
  absl::Time deadline_;
  absl::Status status_;
};

// --- Bytes -------------------------------------------------------------------

// Memory or a file, read at any position. Not thread-safe.
class Input {
 public:
  static absl::StatusOr<std::unique_ptr<Input>> Open(const VideoSource& source,
                                                     int64_t max_bytes) {
    if (source.path.empty() == source.content.empty()) {
      return absl::InvalidArgumentError(
          source.path.empty() ? "the video is empty"
                              : "a video has either content or a path");
    }
    std::unique_ptr<Input> input(new Input(source.content));
    if (!source.path.empty()) {
      QUERN_RETURN_IF_ERROR(input->OpenFile(source.path));
    }
    if (input->size_ > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the video has ", input->size_,
                       " bytes, over the limit of ", max_bytes));
    }
    return input;
  }

  ~Input() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  int64_t size() const { return size_; }

  // As AVIOContext wants it.
  int Read(uint8_t* buffer, int bytes) {
    const int64_t wanted = std::min<int64_t>(bytes, size_ - position_);
    if (wanted <= 0) return AVERROR_EOF;
    ssize_t count = wanted;
    if (descriptor_ < 0) {
      std::memcpy(buffer, content_.data() + position_, wanted);
    } else {
      do {
        count = pread(descriptor_, buffer, wanted, position_);
      } while (count < 0 && errno == EINTR);
      if (count < 0) return AVERROR(errno);
      if (count == 0) return AVERROR_EOF;  // Somebody cuts the file.
    }
    position_ += count;
    return static_cast<int>(count);
  }

  int64_t Seek(int64_t offset, int whence) {
    switch (whence & ~AVSEEK_FORCE) {
      case AVSEEK_SIZE:
        return size_;
      case SEEK_SET:
        break;
      case SEEK_CUR:
        offset = av_sat_add64(offset, position_);
        break;
      default:
        return AVERROR(EINVAL);
    }
    if (offset < 0) return AVERROR(EINVAL);
    position_ = offset;
    return offset;
  }

 private:
  explicit Input(absl::string_view content)
      : content_(content), size_(static_cast<int64_t>(content.size())) {}

  absl::Status OpenFile(const std::string& path) {
    // Opening a pipe or a device must not wait.
    descriptor_ =
        open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor_ < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
    }
    struct stat status = {};
    if (fstat(descriptor_, &status) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
    }
    if (!S_ISREG(status.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is not a regular file"));
    }
    size_ = status.st_size;
    if (size_ == 0) return absl::InvalidArgumentError("the video is empty");
    return absl::OkStatus();
  }

  const absl::string_view content_;
  int descriptor_ = -1;
  int64_t size_ = 0;
  int64_t position_ = 0;
};

// --- Container ---------------------------------------------------------------

// Times below are nanoseconds, rounded to the nearest.
int64_t ToNs(int64_t ticks, AVRational time_base) {
  if (ticks == AV_NOPTS_VALUE) return kNoTime;
  return av_rescale_q(ticks, time_base, kNanoseconds);
}

// A container's video stream, packet by packet.
class Demuxer {
 public:
  Demuxer(Input* input, Watch* watch, const LogCapture* log,
          const VideoLimits& limits)
      : input_(*input), watch_(*watch), log_(*log), limits_(limits) {}

  // Reads the headers. Errors: kInvalidArgument, or those of the watch.
  absl::Status Open();

  // OK and true: `packet` is the stream's next one. OK and false: the end.
  absl::StatusOr<bool> Read(AVPacket* packet);

  // To a key frame at or before `ticks`, where the container can.
  bool SeekTo(int64_t ticks) {
    at_end_ = false;
    return avformat_seek_file(format_.get(), stream_->index,
                              std::numeric_limits<int64_t>::min(), ticks, ticks,
                              0) >= 0;
  }

  bool SeekToStart() {
    at_end_ = false;
    // Where every packet carries its clock, the file's first byte is a start.
    if ((format_->iformat->flags & AVFMT_TS_DISCONT) != 0) {
      return av_seek_frame(format_.get(), -1, 0, AVSEEK_FLAG_BYTE) >= 0;
    }
    return SeekTo(stream_->start_time == AV_NOPTS_VALUE ? 0
                                                        : stream_->start_time);
  }

  // The key frame at or before `ticks` that the container's index knows.
  const AVIndexEntry* FindKeyFrame(int64_t ticks) const {
    const int entry =
        av_index_search_timestamp(stream_, ticks, AVSEEK_FLAG_BACKWARD);
    return entry < 0 ? nullptr : avformat_index_get_entry(stream_, entry);
  }

  int64_t position() const { return avio_tell(format_->pb); }
  AVStream* stream() const { return stream_; }
  AVFormatContext* format() const { return format_.get(); }

  // Zero when the headers do not tell.
  int64_t duration_ns() const { return duration_ns_; }
  // Whether duration_ns() is this stream's own and not the whole file's.
  bool knows_own_duration() const { return knows_own_duration_; }
  // The demuxer failed, or the index points behind the end of the file.
  bool is_cut_off() const { return is_cut_off_; }
  bool is_damaged() const { return is_damaged_; }

 private:
  static int ReadBytes(void* self, uint8_t* buffer, int bytes) {
    Demuxer& demuxer = *static_cast<Demuxer*>(self);
    if (!demuxer.watch_.Check().ok()) return AVERROR_EXIT;
    return demuxer.input_.Read(buffer, bytes);
  }
  static int64_t SeekBytes(void* self, int64_t offset, int whence) {
    return static_cast<Demuxer*>(self)->input_.Seek(offset, whence);
  }
  static int Interrupted(void* self) {
    return static_cast<Demuxer*>(self)->watch_.Check().ok() ? 0 : 1;
  }
  // Containers may name other files; none is opened.
  static int RefuseToOpen(AVFormatContext* /*format*/, AVIOContext** /*io*/,
                          const char* /*url*/, int /*flags*/,
                          AVDictionary** /*options*/) {
    return AVERROR(EPERM);
  }

  absl::Status OpenContainer();
  absl::Status FindStreams();
  absl::Status PickStream();
  absl::Status CheckAllPixels() const;
  void ReadDuration();
  absl::Status MeasureDuration();
  bool EndsBehindTheFile() const;

  Input& input_;
  Watch& watch_;
  const LogCapture& log_;
  const VideoLimits& limits_;
  // The format reads through it until it is closed.
  Owned<AVIOContext> io_;
  Owned<AVFormatContext> format_;
  AVStream* stream_ = nullptr;
  int64_t duration_ns_ = 0;
  bool knows_own_duration_ = false;
  bool is_cut_off_ = false;
  bool is_damaged_ = false;
  bool at_end_ = false;
};

absl::Status Demuxer::Open() {
  QUERN_RETURN_IF_ERROR(OpenContainer());
  QUERN_RETURN_IF_ERROR(CheckAllPixels());
  QUERN_RETURN_IF_ERROR(FindStreams());
  QUERN_RETURN_IF_ERROR(PickStream());
  QUERN_RETURN_IF_ERROR(CheckAllPixels());
  ReadDuration();
  if (duration_ns_ == 0) QUERN_RETURN_IF_ERROR(MeasureDuration());
  is_cut_off_ = EndsBehindTheFile();
  return CheckDuration(duration_ns_, limits_);
}

absl::Status Demuxer::OpenContainer() {
  stream_ = nullptr;
  format_.reset();
  input_.Seek(0, SEEK_SET);
  uint8_t* buffer = static_cast<uint8_t*>(av_malloc(kIoBufferBytes));
  if (buffer == nullptr) return OutOfMemory();
  io_.reset(avio_alloc_context(buffer, kIoBufferBytes, 0, this, ReadBytes,
                               nullptr, SeekBytes));
  AVFormatContext* format = avformat_alloc_context();
  if (io_ == nullptr || format == nullptr) return OutOfMemory();
  format->pb = io_.get();
  format->flags |= AVFMT_FLAG_CUSTOM_IO;
  format->interrupt_callback = {Interrupted, this};
  format->io_open = RefuseToOpen;
  format->max_streams = kMaxStreams;
  format->format_whitelist = av_strdup(kContainers);
  format->codec_whitelist = av_strdup(kDecoders);
  format->protocol_whitelist = av_strdup("");
  // On failure it frees the format, but not the io.
  const int error = avformat_open_input(&format, "", nullptr, nullptr);
  if (error == 0) {
    format_.reset(format);
    return absl::OkStatus();
  }
  QUERN_RETURN_IF_ERROR(watch_.status());
  return absl::InvalidArgumentError(
      absl::StrCat("not a video in a known container (", kContainerNames,
                   "), or a damaged one: ", log_.Reason(error)));
}

absl::Status Demuxer::FindStreams() {
  // What is decoded to learn a stream's parameters is limited too.
  std::array<AVDictionary*, kMaxStreams> options = {};
  for (AVDictionary*& option : options) {
    av_dict_set_int(&option, "max_pixels", CodecMaxPixels(limits_), 0);
  }
  const int error = avformat_find_stream_info(format_.get(), options.data());
  for (AVDictionary*& option : options) av_dict_free(&option);
  QUERN_RETURN_IF_ERROR(watch_.status());
  if (error >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("damaged video: ", log_.Reason(error)));
}

absl::Status Demuxer::PickStream() {
  const auto rank = [](const AVStream* stream) {
    const int64_t pixels = int64_t{stream->codecpar->width} *
                           std::max(0, stream->codecpar->height);
    const bool is_default = (stream->disposition & AV_DISPOSITION_DEFAULT) != 0;
    return std::make_pair(is_default, pixels);
  };
  for (unsigned i = 0; i < format_->nb_streams; ++i) {
    AVStream* stream = format_->streams[i];
    stream->discard = AVDISCARD_ALL;
    if (stream->codecpar->codec_type != AVMEDIA_TYPE_VIDEO) continue;
    // The cover of a record is no video.
    if ((stream->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) continue;
    if (stream_ == nullptr || rank(stream) > rank(stream_)) stream_ = stream;
  }
  if (stream_ == nullptr) {
    return absl::InvalidArgumentError("the file has no video stream");
  }
  stream_->discard = AVDISCARD_DEFAULT;
  return absl::OkStatus();
}

absl::Status Demuxer::CheckAllPixels() const {
  for (unsigned i = 0; i < format_->nb_streams; ++i) {
    const AVCodecParameters& parameters = *format_->streams[i]->codecpar;
    if (parameters.codec_type != AVMEDIA_TYPE_VIDEO) continue;
    QUERN_RETURN_IF_ERROR(
        CheckPixels(parameters.width, parameters.height, limits_));
  }
  return absl::OkStatus();
}

// "00:01:02.345000000", as Matroska's tags have it; zero when it is not.
int64_t ParseTag(const char* text) {
  int hours = 0;
  int minutes = 0;
  double seconds = 0;
  if (std::sscanf(text, "%4d:%2d:%12lf", &hours, &minutes, &seconds) != 3) {
    return 0;
  }
  if (hours < 0 || minutes < 0 || !(seconds >= 0 && seconds < 60)) return 0;
  return (hours * int64_t{3600} + minutes * int64_t{60}) * kSecondNs +
         std::llround(seconds * kSecondNs);
}

void Demuxer::ReadDuration() {
  if (stream_->duration > 0) {
    duration_ns_ = ToNs(stream_->duration, stream_->time_base);
    knows_own_duration_ = true;
  } else if (const AVDictionaryEntry* tag =
                 av_dict_get(stream_->metadata, "DURATION", nullptr, 0);
             tag != nullptr && ParseTag(tag->value) > 0) {
    duration_ns_ = ParseTag(tag->value);
    knows_own_duration_ = true;
  } else if (format_->duration > 0) {
    duration_ns_ = ToNs(format_->duration, AV_TIME_BASE_Q);
    knows_own_duration_ = format_->nb_streams == 1;
  }
  // A guess from the bit rate is no knowledge.
  if (format_->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE ||
      duration_ns_ < 0) {
    duration_ns_ = 0;
  }
}

// Reads the whole file, without decoding, for the time of its last packet.
absl::Status Demuxer::MeasureDuration() {
  int64_t first = kNoTime;
  int64_t last = 0;
  Owned<AVPacket> packet(av_packet_alloc());
  if (packet == nullptr) return OutOfMemory();
  while (true) {
    QUERN_ASSIGN_OR_RETURN(const bool has_packet, Read(packet.get()));
    if (!has_packet) break;
    const int64_t ticks =
        packet->pts == AV_NOPTS_VALUE ? packet->dts : packet->pts;
    const int64_t begin = ToNs(ticks, stream_->time_base);
    const int64_t length =
        std::max<int64_t>(0, ToNs(packet->duration, stream_->time_base));
    av_packet_unref(packet.get());
    if (begin == kNoTime) continue;
    first = first == kNoTime ? begin : std::min(first, begin);
    last = std::max(last, av_sat_add64(begin, length));
  }
  if (first != kNoTime) {
    duration_ns_ = std::max<int64_t>(1, av_sat_sub64(last, first));
  }
  is_damaged_ = false;
  at_end_ = false;
  // Opening again is the one way back that every container has.
  QUERN_RETURN_IF_ERROR(OpenContainer());
  QUERN_RETURN_IF_ERROR(FindStreams());
  return PickStream();
}

bool Demuxer::EndsBehindTheFile() const {
  const int entries = avformat_index_get_entries_count(stream_);
  const AVIndexEntry* last =
      entries > 0 ? avformat_index_get_entry(stream_, entries - 1) : nullptr;
  return last != nullptr && last->pos > input_.size() - last->size;
}

absl::StatusOr<bool> Demuxer::Read(AVPacket* packet) {
  int errors = 0;
  while (!at_end_) {
    QUERN_RETURN_IF_ERROR(watch_.Check());
    const int error = av_read_frame(format_.get(), packet);
    QUERN_RETURN_IF_ERROR(watch_.status());
    if (error >= 0) {
      errors = 0;
      if (packet->stream_index == stream_->index) return true;
      av_packet_unref(packet);
      continue;
    }
    if (error != AVERROR_EOF && error != AVERROR(EAGAIN)) is_damaged_ = true;
    at_end_ = error == AVERROR_EOF || ++errors >= kMaxReadErrors;
    if (at_end_ && error != AVERROR_EOF) is_cut_off_ = true;
  }
  return false;
}

// --- Pictures ----------------------------------------------------------------

// How a stored picture is turned to be upright.
struct Orientation {
  // The upright picture's columns are the stored one's rows.
  bool is_transposed = false;
  bool flips_x = false;  // Of the upright picture.
  bool flips_y = false;
};

Orientation OrientationOf(const AVStream* stream) {
  size_t size = 0;
  const uint8_t* data =
      av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (data == nullptr || size < 9 * sizeof(int32_t)) return {};
  std::array<int32_t, 9> matrix;
  std::memcpy(matrix.data(), data, sizeof(matrix));
  // x' = a x + c y, y' = b x + d y.
  const int64_t a = matrix[0];
  const int64_t b = matrix[1];
  const int64_t c = matrix[3];
  const int64_t d = matrix[4];
  if (std::abs(b) + std::abs(c) > std::abs(a) + std::abs(d)) {
    return {.is_transposed = true, .flips_x = c < 0, .flips_y = b < 0};
  }
  return {.flips_x = a < 0, .flips_y = d < 0};
}

// What a file says, which may be none of the enum's values: reading it as one
// would be undefined.
template <typename Enum>
int NumberOf(const Enum& value) {
  static_assert(sizeof(Enum) == sizeof(int));
  int number = 0;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

bool IsFullRange(const AVFrame& frame) {
  switch (frame.format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ444P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ411P:
      return true;
    default:
      return NumberOf(frame.color_range) == AVCOL_RANGE_JPEG;
  }
}

int MatrixOf(const AVFrame& frame) {
  const int matrix = NumberOf(frame.colorspace);
  if (matrix == AVCOL_SPC_UNSPECIFIED || matrix == AVCOL_SPC_RESERVED) {
    return frame.height >= kHdHeight ? SWS_CS_ITU709 : SWS_CS_ITU601;
  }
  // swscale's numbers are these; of what it does not know it takes its default.
  return matrix;
}

// The largest factor that leaves both upright sides twice as long as asked.
int ShrinkFactor(int64_t width, int64_t height, int64_t hint_width,
                 int64_t hint_height) {
  if (hint_width <= 0 || hint_height <= 0) return 1;
  for (int factor : {8, 4, 2}) {
    if (width / factor / 2 >= hint_width &&
        height / factor / 2 >= hint_height) {
      return factor;
    }
  }
  return 1;
}

// Turns decoded frames into pictures. Not thread-safe.
class PictureMaker {
 public:
  // The hints are for the upright picture.
  PictureMaker(Orientation orientation, int64_t hint_width, int64_t hint_height)
      : orientation_(orientation),
        hint_width_(orientation.is_transposed ? hint_height : hint_width),
        hint_height_(orientation.is_transposed ? hint_width : hint_height) {}

  absl::StatusOr<Image> Make(const AVFrame& frame) {
    const Shape shape = {.format = frame.format,
                         .width = frame.width,
                         .height = frame.height,
                         .matrix = MatrixOf(frame),
                         .is_full_range = IsFullRange(frame)};
    if (shape != shape_) QUERN_RETURN_IF_ERROR(Prepare(shape));
    uint8_t* const planes[4] = {rows_.get(), nullptr, nullptr, nullptr};
    const int strides[4] = {stride_, 0, 0, 0};
    const int lines = sws_scale(context_.get(), frame.data, frame.linesize, 0,
                                frame.height, planes, strides);
    if (lines != height_) {
      return absl::InvalidArgumentError("a frame cannot be converted to RGB");
    }
    return Upright();
  }

 private:
  struct Shape {
    int format = AV_PIX_FMT_NONE;
    int width = 0;
    int height = 0;
    int matrix = 0;
    bool is_full_range = false;

    bool operator==(const Shape&) const = default;
  };

  absl::Status Prepare(const Shape& shape) {
    shape_ = {};
    const int factor =
        ShrinkFactor(shape.width, shape.height, hint_width_, hint_height_);
    width_ = shape.width / factor;
    height_ = shape.height / factor;
    const int flags = SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT |
                      (factor > 1 ? SWS_AREA : SWS_BICUBIC);
    context_.reset(sws_getContext(
        shape.width, shape.height, static_cast<AVPixelFormat>(shape.format),
        width_, height_, AV_PIX_FMT_RGB24, flags, nullptr, nullptr, nullptr));
    if (context_ == nullptr) {
      const char* name =
          av_get_pix_fmt_name(static_cast<AVPixelFormat>(shape.format));
      return absl::InvalidArgumentError(absl::StrCat(
          "frames of the pixel format ", name == nullptr ? "?" : name,
          " cannot be converted to RGB"));
    }
    // Fails for formats that have no matrix, which need none.
    sws_setColorspaceDetails(context_.get(), sws_getCoefficients(shape.matrix),
                             shape.is_full_range ? 1 : 0,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16,
                             1 << 16);
    // swscale may write whole vectors past a row's end.
    stride_ = FFALIGN(width_ * kBands, kAlignment) + kAlignment;
    rows_.reset(static_cast<uint8_t*>(
        av_malloc(static_cast<size_t>(stride_) * height_)));
    if (rows_ == nullptr) return OutOfMemory();
    shape_ = shape;
    return absl::OkStatus();
  }

  Image Upright() const {
    const int64_t width = orientation_.is_transposed ? height_ : width_;
    const int64_t height = orientation_.is_transposed ? width_ : height_;
    Image image = {.width = width, .height = height, .rgb = {}};
    image.rgb.resize(width * height * kBands);
    // Where a step to the right and a step down lead in the stored rows.
    const int64_t right = orientation_.is_transposed ? stride_ : kBands;
    const int64_t down = orientation_.is_transposed ? kBands : stride_;
    uint8_t* out = image.rgb.data();
    for (int64_t y = 0; y < height; ++y) {
      const uint8_t* row =
          rows_.get() + down * (orientation_.flips_y ? height - 1 - y : y);
      if (right == kBands && !orientation_.flips_x) {
        std::memcpy(out, row, width * kBands);
        out += width * kBands;
        continue;
      }
      for (int64_t x = 0; x < width; ++x) {
        std::memcpy(out,
                    row + right * (orientation_.flips_x ? width - 1 - x : x),
                    kBands);
        out += kBands;
      }
    }
    return image;
  }

  const Orientation orientation_;
  const int64_t hint_width_;   // Of the stored picture.
  const int64_t hint_height_;  // Of the stored picture.
  Shape shape_;                // What the members below are made for.
  Owned<SwsContext> context_;
  Owned<uint8_t> rows_;
  int width_ = 0;
  int height_ = 0;
  int stride_ = 0;
};

// --- Sampling ----------------------------------------------------------------

// The times that are asked for, in nanoseconds from the first frame. Headers
// may promise too little: without a cap there are times behind their end, too.
class SampleTimes {
 public:
  SampleTimes(const VideoSampling& sampling, int64_t duration_ns)
      : step_(std::min(std::max(static_cast<double>(kSecondNs) /
                                    sampling.frames_per_second,
                                static_cast<double>(duration_ns) /
                                    static_cast<double>(sampling.max_frames)),
                       static_cast<double>(kLongestNs))),
        count_(sampling.max_frames) {}

  int64_t count() const { return count_; }
  int64_t at(int64_t sample) const {
    return std::llround(std::min(static_cast<double>(sample) * step_,
                                 static_cast<double>(kLongestNs)));
  }

 private:
  const double step_;
  const int64_t count_;
};

// Reads packets ahead until it is known which of them the next sample depends
// on, decodes those, and finds the frame that is shown at the sample's time.
class Sampler {
 public:
  Sampler(Demuxer* demuxer, AVCodecContext* codec, Watch* watch,
          const LogCapture* log, const FfmpegVideoDecoder::Options& options,
          const VideoSampling& sampling, PictureMaker* pictures,
          absl::FunctionRef<absl::Status(VideoFrame)> on_frame)
      : demuxer_(*demuxer),
        codec_(*codec),
        watch_(*watch),
        log_(*log),
        options_(options),
        times_(sampling, demuxer->duration_ns()),
        pictures_(*pictures),
        on_frame_(on_frame),
        time_base_(demuxer->stream()->time_base),
        slack_ns_(std::min<int64_t>(kSecondNs / 2000, ToNs(1, time_base_) / 2) +
                  1),
        frame_(av_frame_alloc()),
        held_(av_frame_alloc()) {}

  // Fills in what only decoding tells.
  absl::Status Run(VideoInfo* info);

 private:
  struct Packet {
    Owned<AVPacket> data;
    int64_t pts_ns;  // kNoTime when unknown, as below.
    int64_t dts_ns;
    bool is_key;
  };

  bool is_done() const { return next_ >= times_.count(); }
  int64_t wanted() const { return times_.at(next_) + slack_ns_; }

  // From the first frame; kNoTime before it is known, or when out of range.
  int64_t Relative(int64_t ticks) const {
    if (ticks == AV_NOPTS_VALUE || base_ == AV_NOPTS_VALUE) return kNoTime;
    return ToNs(av_sat_sub64(ticks, base_), time_base_);
  }

  void NoteEnd(const AVPacket& packet, int64_t pts) {
    const int64_t length = ToNs(packet.duration, time_base_);
    const int64_t end = av_sat_add64(pts, std::max<int64_t>(0, length));
    end_ns_ = std::max(end_ns_, std::min(end, kLongestNs));
  }

  int64_t ToTicks(int64_t relative_ns) const {
    return av_sat_add64(base_,
                        av_rescale_q(relative_ns, kNanoseconds, time_base_));
  }

  absl::Status Step();
  absl::Status ReadPacket();
  bool NothingIsLeft() const;
  bool KnowsWhatToDecode() const;
  void DropUnneeded();
  void SkipAhead();
  absl::Status DecodeFront();
  absl::Status Send(const AVPacket* packet);
  absl::Status Receive();
  absl::Status TakeFrame();
  absl::Status Hold(int64_t time);
  absl::Status EmitHeld();
  absl::Status StepBack(int64_t& preroll_ns);
  void Restart();
  absl::Status Finish();

  Demuxer& demuxer_;
  AVCodecContext& codec_;
  Watch& watch_;
  const LogCapture& log_;
  const FfmpegVideoDecoder::Options& options_;
  const SampleTimes times_;
  PictureMaker& pictures_;
  const absl::FunctionRef<absl::Status(VideoFrame)> on_frame_;
  const AVRational time_base_;
  // Containers round times to their tick: so much earlier is not earlier.
  const int64_t slack_ns_;

  int64_t next_ = 0;               // The first sample without a frame.
  int64_t base_ = AV_NOPTS_VALUE;  // Of the first frame, in ticks.
  std::deque<Packet> queue_;       // Read, not decoded; in decoding order.
  int64_t queue_bytes_ = 0;
  int64_t untimed_ = 0;           // Packets in the queue that lack a time.
  int64_t horizon_ns_ = kNoTime;  // Nothing to come is shown earlier.
  int64_t cover_ns_ = kNoTime;    // The latest packet at or before the...
  int64_t cover_of_ = -1;         // ...sample of this number.
  bool has_new_key_ = false;      // In the queue since it was judged...
  int64_t judged_for_ = -1;       // ...for the sample of this number.
  bool reached_end_ = false;      // Of the packets.
  bool drained_ = false;          // Of the decoder.
  bool needs_key_ = false;        // Until one comes, packets are useless.
  bool starts_over_ = false;      // No frame since the decoder was flushed.
  bool is_sequential_ = false;    // Key frames cannot be relied on.
  int64_t skipped_for_ = -1;      // The last sample that was sought.
  int steps_back_ = 0;
  // How far before a sample to start: because key frames were none, and because
  // seeking without an index came to a key frame that was too late.
  int64_t bad_key_ns_ = 0;
  int64_t blind_seek_ns_ = 0;

  Owned<AVFrame> frame_;  // Just decoded.
  Owned<AVFrame> held_;   // The latest, shown until the next.
  bool has_held_ = false;
  int64_t held_time_ = 0;
  int64_t held_samples_ = 0;
  int64_t nominal_ns_ = 0;                // The latest frame's length.
  int64_t end_ns_ = 0;                    // Of the packets read so far.
  int64_t first_ticks_ = AV_NOPTS_VALUE;  // Of the packets read so far.
  int64_t decoded_bytes_ = 0;
  int64_t damage_ = 0;  // Packets and frames.
  VideoInfo* info_ = nullptr;
};

absl::Status Sampler::Run(VideoInfo* info) {
  info_ = info;
  if (frame_ == nullptr || held_ == nullptr) return OutOfMemory();
  while (!is_done() && !drained_) QUERN_RETURN_IF_ERROR(Step());
  if (!has_held_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the video has no frame that can be decoded: ",
                     log_.Reason(AVERROR_INVALIDDATA)));
  }
  if (!is_done()) {
    const int64_t end = std::max(end_ns_, held_time_ + nominal_ns_);
    const int64_t promised = demuxer_.duration_ns();
    const bool ends_early = end + 3 * nominal_ns_ + promised / 100 < promised;
    info->is_truncated = ends_early && demuxer_.knows_own_duration();
    const bool is_cut =
        ends_early && (info->is_truncated || demuxer_.is_cut_off());
    // The last frame is shown until the end.
    const int64_t shown_until = is_cut ? end : std::max(end, promised);
    while (!is_done() &&
           (next_ == 0 || times_.at(next_) + kEndSlackNs < shown_until)) {
      ++held_samples_;
      ++next_;
    }
    QUERN_RETURN_IF_ERROR(EmitHeld());
    info->duration = absl::Nanoseconds(shown_until);
  } else {
    // The header may have promised less than there was.
    info->duration = absl::Nanoseconds(
        std::max({demuxer_.duration_ns(), end_ns_, held_time_ + nominal_ns_}));
  }
  info->is_truncated = info->is_truncated || demuxer_.is_cut_off();
  info->is_damaged = damage_ > 0 || demuxer_.is_damaged();
  return absl::OkStatus();
}

absl::Status Sampler::Step() {
  QUERN_RETURN_IF_ERROR(watch_.Check());
  DropUnneeded();
  if (NothingIsLeft()) {
    drained_ = true;
    return absl::OkStatus();
  }
  if (!queue_.empty() && KnowsWhatToDecode()) return DecodeFront();
  if (!reached_end_) {
    SkipAhead();
    return ReadPacket();
  }
  return Finish();
}

// Whether every packet that is shown at or before the wanted time is in the
// queue: then so is the last key frame before it.
bool Sampler::KnowsWhatToDecode() const {
  return base_ == AV_NOPTS_VALUE || reached_end_ || is_sequential_ ||
         untimed_ > 0 || queue_bytes_ > kMaxQueueBytes ||
         queue_.size() > kMaxQueuePackets || horizon_ns_ > wanted();
}

// Whether the next sample lies behind the last frame, which then needs no
// decoding.
bool Sampler::NothingIsLeft() const {
  return reached_end_ && has_held_ && !starts_over_ && untimed_ == 0 &&
         times_.at(next_) >= std::max(end_ns_, demuxer_.duration_ns());
}

absl::Status Sampler::ReadPacket() {
  Owned<AVPacket> packet(av_packet_alloc());
  if (packet == nullptr) return OutOfMemory();
  QUERN_ASSIGN_OR_RETURN(const bool has_packet, demuxer_.Read(packet.get()));
  if (!has_packet) {
    reached_end_ = true;
    return absl::OkStatus();
  }
  const bool is_key = (packet->flags & AV_PKT_FLAG_KEY) != 0;
  if (needs_key_) {
    if (!is_key) return absl::OkStatus();
    if (Relative(packet->pts) > wanted()) return StepBack(blind_seek_ns_);
    needs_key_ = false;
  }
  if ((packet->flags & AV_PKT_FLAG_CORRUPT) != 0) ++damage_;
  const int64_t pts = Relative(packet->pts);
  const int64_t dts = Relative(packet->dts);
  if (pts == kNoTime) ++untimed_;
  if (dts != kNoTime) horizon_ns_ = std::max(horizon_ns_, dts);
  if (pts != kNoTime) NoteEnd(*packet, pts);
  if (packet->pts != AV_NOPTS_VALUE &&
      (packet->flags & AV_PKT_FLAG_DISCARD) == 0 &&
      (first_ticks_ == AV_NOPTS_VALUE || packet->pts < first_ticks_)) {
    first_ticks_ = packet->pts;
  }
  queue_bytes_ += packet->size;
  has_new_key_ = has_new_key_ || is_key;
  queue_.push_back({std::move(packet), pts, dts, is_key});
  return absl::OkStatus();
}

// Drops what comes before the last key frame that is shown at or before the
// wanted time. (What follows a key frame and is shown before it is not wanted
// either.)
void Sampler::DropUnneeded() {
  if (base_ == AV_NOPTS_VALUE || is_sequential_) return;
  if (!has_new_key_ && judged_for_ == next_) return;
  has_new_key_ = false;
  judged_for_ = next_;
  size_t start = 0;
  for (size_t i = queue_.size(); i-- > 1 && start == 0;) {
    const Packet& packet = queue_[i];
    if (packet.is_key && packet.pts_ns != kNoTime &&
        packet.pts_ns <= wanted() - bad_key_ns_) {
      start = i;
    }
  }
  if (start == 0) return;
  for (size_t i = 0; i < start; ++i) {
    queue_bytes_ -= queue_.front().data->size;
    if (queue_.front().pts_ns == kNoTime) --untimed_;
    queue_.pop_front();
  }
  avcodec_flush_buffers(&codec_);
  starts_over_ = true;
}

// Seeks when the wanted time lies so far ahead that it pays.
void Sampler::SkipAhead() {
  if (base_ == AV_NOPTS_VALUE || is_sequential_ || is_done() ||
      skipped_for_ == next_ || horizon_ns_ == kNoTime) {
    return;
  }
  int64_t target_ns = times_.at(next_) - bad_key_ns_;
  if (target_ns <= horizon_ns_) return;
  const AVIndexEntry* key = demuxer_.FindKeyFrame(ToTicks(target_ns));
  const bool is_known =
      key != nullptr && Relative(key->timestamp) > horizon_ns_;
  if (is_known) {
    if (av_sat_sub64(key->pos, demuxer_.position()) < options_.min_seek_bytes) {
      return;
    }
  } else {
    target_ns -= blind_seek_ns_;
    if (av_sat_sub64(target_ns, horizon_ns_) < kBlindSeekNs) return;
  }
  skipped_for_ = next_;
  if (demuxer_.SeekTo(ToTicks(target_ns))) Restart();
}

void Sampler::Restart() {
  queue_.clear();
  queue_bytes_ = 0;
  untimed_ = 0;
  horizon_ns_ = kNoTime;
  cover_of_ = -1;
  reached_end_ = false;
  drained_ = false;
  needs_key_ = true;
  starts_over_ = true;
  avcodec_flush_buffers(&codec_);
}

absl::Status Sampler::DecodeFront() {
  Packet packet = std::move(queue_.front());
  queue_.pop_front();
  queue_bytes_ -= packet.data->size;
  if (packet.pts_ns == kNoTime) --untimed_;
  codec_.skip_frame = AVDISCARD_DEFAULT;
  const bool is_timed = base_ != AV_NOPTS_VALUE && untimed_ == 0 &&
                        packet.pts_ns != kNoTime && horizon_ns_ > wanted();
  if (is_timed && !is_sequential_) {
    if (cover_of_ != next_) {
      cover_of_ = next_;
      cover_ns_ = kNoTime;
      for (const Packet& later : queue_) {
        if (later.pts_ns <= wanted()) {
          cover_ns_ = std::max(cover_ns_, later.pts_ns);
        }
      }
    }
    // It is shown before the frame that is wanted, so at no sample's time.
    if (packet.pts_ns < cover_ns_) codec_.skip_frame = AVDISCARD_NONREF;
  }
  return Send(packet.data.get());
}

// A null `packet` ends the stream.
absl::Status Sampler::Send(const AVPacket* packet) {
  const int error = avcodec_send_packet(&codec_, packet);
  // Decoders say that memory is lacking for many a broken header, too.
  if (error < 0 && error != AVERROR_EOF) ++damage_;
  return Receive();
}

absl::Status Sampler::Receive() {
  while (!is_done()) {
    const int error = avcodec_receive_frame(&codec_, frame_.get());
    if (error == AVERROR(EAGAIN) || error == AVERROR_EOF) {
      return absl::OkStatus();
    }
    if (error < 0) {
      ++damage_;
      // While draining, further frames may follow.
      if (!reached_end_ || !queue_.empty()) return absl::OkStatus();
      if (damage_ > kMaxReadErrors) return absl::OkStatus();
      continue;
    }
    QUERN_RETURN_IF_ERROR(TakeFrame());
    QUERN_RETURN_IF_ERROR(watch_.Check());
  }
  return absl::OkStatus();
}

absl::Status Sampler::TakeFrame() {
  const AVFrame& frame = *frame_;
  QUERN_RETURN_IF_ERROR(
      CheckPixels(frame.width, frame.height, options_.limits));
  decoded_bytes_ += int64_t{frame.width} * frame.height * kBands;
  if (decoded_bytes_ > options_.limits.max_decoded_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "more than the limit of ", options_.limits.max_decoded_bytes,
        " bytes of frames must be decoded; ask for fewer frames, or send a "
        "shorter or smaller video"));
  }
  if (frame.decode_error_flags != 0 ||
      (frame.flags & AV_FRAME_FLAG_CORRUPT) != 0) {
    ++damage_;
  }
  int64_t ticks = frame.best_effort_timestamp;
  if (base_ == AV_NOPTS_VALUE) {
    if (ticks == AV_NOPTS_VALUE) ticks = 0;
    base_ = ticks;
    // Frames before the first one that can be decoded count.
    if (first_ticks_ != AV_NOPTS_VALUE && first_ticks_ < ticks &&
        ToNs(av_sat_sub64(ticks, first_ticks_), time_base_) < kMaxLostStartNs) {
      base_ = first_ticks_;
    }
    // Their times were unknown when they were read.
    untimed_ = 0;
    for (Packet& packet : queue_) {
      packet.pts_ns = Relative(packet.data->pts);
      packet.dts_ns = Relative(packet.data->dts);
      if (packet.pts_ns == kNoTime) {
        ++untimed_;
      } else {
        NoteEnd(*packet.data, packet.pts_ns);
      }
      horizon_ns_ = std::max(horizon_ns_, packet.dts_ns);
    }
    info_->pixel_aspect = av_q2d(av_guess_sample_aspect_ratio(
        demuxer_.format(), demuxer_.stream(), frame_.get()));
    info_->width = frame.width;
    info_->height = frame.height;
  }
  const int64_t time =
      ticks == AV_NOPTS_VALUE ? held_time_ + nominal_ns_ : Relative(ticks);
  // Seeking goes back at times; some files do, too.
  if (time == kNoTime || (has_held_ && time <= held_time_)) {
    return absl::OkStatus();
  }
  QUERN_RETURN_IF_ERROR(CheckDuration(time, options_.limits));
  if (starts_over_ && time > wanted() && !is_sequential_) {
    return StepBack(bad_key_ns_);
  }
  starts_over_ = false;
  return Hold(time);
}

absl::Status Sampler::Hold(int64_t time) {
  if (has_held_) {
    while (!is_done() && wanted() < time) {
      ++held_samples_;
      ++next_;
    }
    QUERN_RETURN_IF_ERROR(EmitHeld());
    nominal_ns_ = time - held_time_;
  }
  const int64_t length = ToNs(frame_->pkt_duration, time_base_);
  const AVRational rate = demuxer_.stream()->avg_frame_rate;
  if (length > 0) {
    nominal_ns_ = length;
  } else if (rate.num > 0 && rate.den > 0) {
    nominal_ns_ = av_rescale(kSecondNs, rate.den, rate.num);
  }
  // A length beyond all reason must not overflow what is added to it.
  nominal_ns_ = std::clamp<int64_t>(nominal_ns_, 0, 3600 * kSecondNs);
  held_.swap(frame_);
  av_frame_unref(frame_.get());
  has_held_ = true;
  held_time_ = time;
  held_samples_ = 0;
  return absl::OkStatus();
}

absl::Status Sampler::EmitHeld() {
  if (held_samples_ == 0) return absl::OkStatus();
  QUERN_ASSIGN_OR_RETURN(Image image, pictures_.Make(*held_));
  VideoFrame frame = {.time = absl::Nanoseconds(held_time_),
                      .samples = held_samples_,
                      .image = std::move(image)};
  held_samples_ = 0;
  ++info_->frames;
  return watch_.Uncounted([&] { return on_frame_(std::move(frame)); });
}

// Starts further back, since decoding would begin behind the frame that is
// wanted; `preroll_ns` is how far back it began.
absl::Status Sampler::StepBack(int64_t& preroll_ns) {
  preroll_ns = std::max(2 * preroll_ns, kFirstStepBackNs);
  const int64_t target_ns = times_.at(next_) - bad_key_ns_ - blind_seek_ns_;
  bool is_back = false;
  if (++steps_back_ <= kMaxStepsBack && target_ns > 0) {
    is_back = demuxer_.SeekTo(ToTicks(target_ns));
  }
  if (!is_back) {
    is_sequential_ = true;
    is_back = demuxer_.SeekToStart();
  }
  if (!is_back) {
    starts_over_ = false;
    return absl::OkStatus();  // The frame before stands for what is lost.
  }
  Restart();
  needs_key_ = !is_sequential_;
  return absl::OkStatus();
}

// No packet is left.
absl::Status Sampler::Finish() {
  if (base_ != AV_NOPTS_VALUE && starts_over_ && needs_key_ &&
      !is_sequential_) {
    return StepBack(blind_seek_ns_);  // Not one key frame since the last seek.
  }
  QUERN_RETURN_IF_ERROR(Send(nullptr));
  if (is_done() || !reached_end_) return absl::OkStatus();
  if (has_held_ && starts_over_ && !is_sequential_) {
    return StepBack(bad_key_ns_);
  }
  drained_ = true;
  return absl::OkStatus();
}

absl::StatusOr<Owned<AVCodecContext>> OpenCodec(const Demuxer& demuxer,
                                                const LogCapture& log,
                                                const VideoLimits& limits,
                                                int threads) {
  const AVCodecParameters& parameters = *demuxer.stream()->codecpar;
  const AVCodec* codec = avcodec_find_decoder(parameters.codec_id);
  if (parameters.codec_id == AV_CODEC_ID_AV1) {
    codec = avcodec_find_decoder_by_name("libdav1d");
  }
  if (codec == nullptr || av_match_name(codec->name, kDecoders) == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the video's codec is ", avcodec_get_name(parameters.codec_id),
        ", which is none of ", kCodecNames));
  }
  Owned<AVCodecContext> context(avcodec_alloc_context3(codec));
  if (context == nullptr) return OutOfMemory();
  if (avcodec_parameters_to_context(context.get(), &parameters) < 0) {
    return OutOfMemory();
  }
  context->pkt_timebase = demuxer.stream()->time_base;
  context->max_pixels = CodecMaxPixels(limits);
  const int64_t pixels = int64_t{parameters.width} * parameters.height;
  context->thread_count = pixels < kMinPixelsForThreads ? 1 : threads;
  context->thread_type = FF_THREAD_FRAME | FF_THREAD_SLICE;
  const int error = avcodec_open2(context.get(), codec, nullptr);
  if (error < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", codec->name,
                     " decoder refuses the video: ", log.Reason(error)));
  }
  return context;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FfmpegVideoDecoder>> FfmpegVideoDecoder::Create(
    Options options, const Clock* clock) {
  const VideoLimits& limits = options.limits;
  QUERN_RETURN_IF_ERROR(CheckAtLeastOne("limits.max_bytes", limits.max_bytes));
  QUERN_RETURN_IF_ERROR(
      CheckAtLeastOne("limits.max_pixels", limits.max_pixels));
  QUERN_RETURN_IF_ERROR(
      CheckAtLeastOne("limits.max_decoded_bytes", limits.max_decoded_bytes));
  QUERN_RETURN_IF_ERROR(
      CheckPositive("limits.max_duration", limits.max_duration));
  QUERN_RETURN_IF_ERROR(
      CheckPositive("limits.max_decode_time", limits.max_decode_time));
  if (limits.max_duration > absl::Nanoseconds(kLongestNs)) {
    return InvalidField("limits.max_duration",
                        absl::StrCat(absl::FormatDuration(limits.max_duration),
                                     " is over 10000h"));
  }
  if (options.threads < 1 || options.threads > 64) {
    return InvalidField("threads",
                        absl::StrCat(options.threads, " is not in 1..64"));
  }
  if (options.min_seek_bytes < 0) {
    return InvalidField("min_seek_bytes", absl::StrCat(options.min_seek_bytes,
                                                       " is less than 0"));
  }
  return std::unique_ptr<FfmpegVideoDecoder>(
      new FfmpegVideoDecoder(options, clock));
}

absl::StatusOr<VideoInfo> FfmpegVideoDecoder::Decode(
    const VideoSource& source, const VideoSampling& sampling,
    int64_t hint_width, int64_t hint_height,
    absl::FunctionRef<absl::Status()> check,
    absl::FunctionRef<absl::Status(VideoFrame)> on_frame) const {
  QUERN_RETURN_IF_ERROR(CheckSampling(sampling));
  const LogCapture log;
  Watch watch(clock_, options_.limits.max_decode_time, check);
  QUERN_RETURN_IF_ERROR(watch.Check());
  QUERN_ASSIGN_OR_RETURN(const std::unique_ptr<Input> input,
                         Input::Open(source, options_.limits.max_bytes));
  Demuxer demuxer(input.get(), &watch, &log, options_.limits);
  QUERN_RETURN_IF_ERROR(demuxer.Open());
  QUERN_ASSIGN_OR_RETURN(
      const Owned<AVCodecContext> codec,
      OpenCodec(demuxer, log, options_.limits, options_.threads));

  VideoInfo info = {
      .duration = absl::Nanoseconds(demuxer.duration_ns()),
      .codec = avcodec_get_name(codec->codec_id),
  };
  const Orientation orientation = OrientationOf(demuxer.stream());
  PictureMaker pictures(orientation, hint_width, hint_height);
  Sampler sampler(&demuxer, codec.get(), &watch, &log, options_, sampling,
                  &pictures, on_frame);
  QUERN_RETURN_IF_ERROR(sampler.Run(&info));
  if (!(info.pixel_aspect > 0) || std::isinf(info.pixel_aspect)) {
    info.pixel_aspect = 1;
  }
  if (orientation.is_transposed) {
    std::swap(info.width, info.height);
    info.pixel_aspect = 1 / info.pixel_aspect;
  }
  return info;
}

}  // namespace quern
