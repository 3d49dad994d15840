#include "engine/embed/embedder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"
#include "engine/embed/frame_pooling.h"

namespace quern {
namespace {

// A call of more inputs is a load, not somebody who waits.
constexpr size_t kMaxInteractiveInputs = 64;
// Pictures admitted but not decoded yet are bounded by the batchers' queues.
constexpr size_t kMaxQueuedDecodes = 1'000'000;
constexpr size_t kMaxQueuedVideos = 1024;
// Frames of one video between its decoder and the model.
constexpr int kFramesInFlight = 32;

absl::Status CheckText(absl::string_view text, int64_t max_bytes) {
  if (text.empty()) {
    return InvalidField("text", "is empty; give at least one byte");
  }
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return InvalidField(
        "text", absl::StrCat("has ", text.size(),
                             " bytes; limits.max_text_bytes is ", max_bytes));
  }
  if (!IsValidUtf8(text)) return InvalidField("text", "is not valid UTF-8");
  return absl::OkStatus();
}

// How a picture is preprocessed whose grid is to cover all of it: near the area
// of the side that the model names, in the picture's own shape as far as the
// tower's multiples and kLongestSide allow, so that things keep their
// proportions; at the model's own size, squashed, where it names none.
ImagePreprocessing WholePicture(const Model& model, const Image& image) {
  constexpr double kLongestSide = 2;  // Of the side named.
  ImagePreprocessing whole = model.preprocessing();
  whole.mode = ResizeMode::kSquash;
  const ModelInfo& info = model.info();
  if (info.dense_side == 0) return whole;
  const double stretch =
      std::clamp(std::sqrt(static_cast<double>(image.width) /
                           static_cast<double>(image.height)),
                 1 / kLongestSide, kLongestSide);
  const auto rounded = [&](double side) {
    const auto multiple = static_cast<double>(info.size_multiple);
    return std::max<int64_t>(1, std::lround(side / multiple)) *
           info.size_multiple;
  };
  const auto side = static_cast<double>(info.dense_side);
  whole.width = rounded(side * stretch);
  whole.height = rounded(side / stretch);
  return whole;
}

// Of such a picture, in pictures of the model's own size.
int64_t WholePictureCost(const Model& model) {
  const ImagePreprocessing& own = model.preprocessing();
  const int64_t side = model.info().dense_side;
  return std::max<int64_t>(1, side * side / (own.width * own.height));
}

// What the caller reads as an error of its field, where it is one.
absl::Status OfField(absl::string_view field, absl::Status status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return InvalidField(field, status.message());
}

}  // namespace

// One call of Embed(). It owns itself until the last input is done.
class Embedder::Call {
 public:
  Call(Embedder& embedder, const RequestContext& context,
       std::shared_ptr<const Model> model,
       const std::vector<EmbedInput>& inputs, const EmbedOptions& options,
       Done done)
      : embedder_(embedder),
        context_(context),
        model_(std::move(model)),
        inputs_(inputs),
        options_(options),
        done_(std::move(done)),
        lane_(inputs.size() > kMaxInteractiveInputs ? Lane::kBulk
                                                    : context.lane()),
        start_(context.clock().Now()),
        slots_(inputs.size()),
        // One more, for Start() itself.
        unfinished_(static_cast<int64_t>(inputs.size()) + 1) {}

  static void Start(std::unique_ptr<Call> call) {
    // From the first row on, another thread may end the call.
    Call* raw = call.release();
    raw->Prepare();
    raw->AdmitAndSubmit();
    if (--raw->unfinished_ == 0) raw->End();
  }

 private:
  struct Slot {
    absl::StatusOr<Embedded> result = absl::UnknownError("not done");
    bool is_finished = false;  // Before any row was submitted.
    std::optional<TextRow> text;
    // Of a picture: for its embedding, or for both; and for its grid where that
    // is seen otherwise.
    std::optional<ImageRow> image;
    std::optional<ImageRow> grid;
    std::atomic<int> rows = 1;             // Under way.
    std::shared_ptr<const Image> picture;  // Where it was asked for.
    int64_t width = 0;                     // Of a picture's upright original.
    int64_t height = 0;
    std::string cache_key;  // Empty: not for the cache.
    absl::Time decoded;
  };

  // Checks and tokenises; what fails, or is known, is finished.
  void Prepare() {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      Slot& slot = slots_[i];
      absl::Status status = context_.Check("encode");
      if (status.ok()) {
        status = std::visit(
            [&](const auto& input) { return PrepareInput(input, slot); },
            inputs_[i]);
      }
      // What was in the cache is finished too.
      slot.is_finished = !status.ok() || slot.result.ok();
      if (!status.ok()) slot.result = std::move(status);
    }
  }

  absl::Status PrepareInput(const TextInput& input, Slot& slot) {
    QUERN_RETURN_IF_ERROR(
        CheckText(input.text, embedder_.options_.max_text_bytes));
    if (options_.dense) {
      return InvalidField("outputs",
                          "has DENSE, which a text does not have; its tokens' "
                          "vectors are TOKENS");
    }
    QUERN_RETURN_IF_ERROR(model_->Require("text.global"));
    if (options_.tokens) QUERN_RETURN_IF_ERROR(model_->Require("text.tokens"));
    if (!options_.tokens) {
      const ModelInfo& info = model_->info();
      slot.cache_key =
          TextCache::KeyOf(absl::StrCat(info.fingerprint, " ", info.device, " ",
                                        PrecisionName(info.precision)),
                           input.text);
      std::optional<TextCache::Entry> known =
          embedder_.cache_.Get(slot.cache_key);
      if (known.has_value()) {
        slot.result = Embedded{.embedding = std::move(known->embedding),
                               .truncated = known->truncated,
                               .tokens = known->tokens};
        return absl::OkStatus();
      }
    }
    TextRow& row = slot.text.emplace();
    row.tokens = model_->tokenizer()->Tokenize(input.text);
    row.wants_embedding = options_.embedding;
    row.wants_tokens = options_.tokens;
    InitRow(row, slot, static_cast<int64_t>(row.tokens.ids.size()));
    return absl::OkStatus();
  }

  absl::Status PrepareInput(const ImageInput& /*input*/, Slot& slot) {
    QUERN_RETURN_IF_ERROR(RefuseTokens());
    if (options_.embedding) {
      QUERN_RETURN_IF_ERROR(model_->Require("image.global"));
    }
    if (options_.dense) QUERN_RETURN_IF_ERROR(model_->Require("image.dense"));
    ImageRow& row = slot.image.emplace();
    row.wants_embedding = options_.embedding;
    const bool separate = options_.dense && options_.grid_scale > 0;
    row.wants_dense = options_.dense && !separate;
    InitRow(row, slot, options_.whole_picture ? WholePictureCost(*model_) : 1);
    if (!separate) return absl::OkStatus();
    ImageRow& grid = slot.grid.emplace();
    grid.width = options_.grid_scale * model_->preprocessing().width;
    grid.height = options_.grid_scale * model_->preprocessing().height;
    grid.wants_embedding = false;
    grid.wants_dense = true;
    InitRow(grid, slot, options_.grid_scale * options_.grid_scale);
    slot.rows = 2;
    return absl::OkStatus();
  }

  absl::Status PrepareInput(const VideoInput& /*input*/, Slot& /*slot*/) {
    if (embedder_.videos_ == nullptr) {
      return absl::UnimplementedError("video: this server decodes no videos");
    }
    QUERN_RETURN_IF_ERROR(RefuseTokens());
    return model_->Require("image.global");
  }

  absl::Status RefuseTokens() const {
    if (!options_.tokens) return absl::OkStatus();
    return InvalidField("outputs", "has TOKENS, which only a text has");
  }

  void InitRow(EncodeRow& row, Slot& slot, int64_t size) {
    row.context = &context_;
    row.lane = lane_;
    row.size = size;
    row.on_done = [this, &slot] { FinishRow(slot); };
  }

  // All texts and pictures are let in, or none of them.
  void AdmitAndSubmit() {
    std::vector<BatchItem*> texts;
    int64_t text_cost = 0;
    int64_t images = 0;
    int64_t image_cost = 0;
    for (Slot& slot : slots_) {
      if (slot.is_finished) continue;
      if (slot.text.has_value()) {
        texts.push_back(&*slot.text);
        text_cost += slot.text->size;
      }
      for (const BatchItem* row : ImageRows(slot)) {
        ++images;
        image_cost += row->size;
      }
    }
    const absl::Status admitted = Admit(static_cast<int64_t>(texts.size()),
                                        text_cost, images, image_cost);
    // A row's end may end the call, but not before Start() has.
    for (size_t i = 0; i < slots_.size(); ++i) {
      Slot& slot = slots_[i];
      const bool has_row = slot.text.has_value() || slot.image.has_value();
      if (slot.is_finished) {
        FinishSlot();
      } else if (has_row && !admitted.ok()) {
        slot.result = admitted;
        FinishSlot();
      } else if (slot.image.has_value()) {
        Decode(embedder_.image_threads_, lane_, slot,
               [this, i] { DecodeImage(i); });
      } else if (!slot.text.has_value()) {
        Decode(embedder_.video_threads_, lane_, slot,
               [this, i] { RunVideo(i); });
      }
    }
    if (admitted.ok() && !texts.empty()) model_->text_batcher()->Submit(texts);
  }

  absl::Status Admit(int64_t texts, int64_t text_cost, int64_t images,
                     int64_t image_cost) {
    if (texts > 0) {
      QUERN_RETURN_IF_ERROR(
          model_->text_batcher()->Admit(context_, lane_, texts, text_cost));
    }
    if (images == 0) return absl::OkStatus();
    absl::Status status =
        model_->image_batcher()->Admit(context_, lane_, images, image_cost);
    if (!status.ok() && texts > 0) {
      model_->text_batcher()->Withdraw(lane_, texts, text_cost);
    }
    return status;
  }

  void Decode(ThreadPool& threads, Lane lane, Slot& slot,
              ThreadPool::Task task) {
    const absl::Status status = threads.Submit(std::move(task), lane);
    if (status.ok()) return;
    WithdrawImages(slot);
    slot.result = status;
    FinishSlot();
  }

  static std::vector<BatchItem*> ImageRows(Slot& slot) {
    std::vector<BatchItem*> rows;
    for (std::optional<ImageRow>* row : {&slot.image, &slot.grid}) {
      if (row->has_value()) rows.push_back(&**row);
    }
    return rows;
  }

  void WithdrawImages(Slot& slot) {
    for (const BatchItem* row : ImageRows(slot)) {
      model_->image_batcher()->Withdraw(lane_, 1, row->size);
    }
  }

  // On a decoder's thread.
  void DecodeImage(size_t i) {
    Slot& slot = slots_[i];
    absl::Status status = ReadPicture(std::get<ImageInput>(inputs_[i]), slot);
    slot.decoded = context_.clock().Now();
    if (!status.ok()) {
      WithdrawImages(slot);
      slot.result = std::move(status);
      FinishSlot();
      return;
    }
    model_->image_batcher()->Submit(ImageRows(slot));
  }

  absl::Status ReadPicture(const ImageInput& input, Slot& slot) {
    QUERN_RETURN_IF_ERROR(context_.Check("decode"));
    if (input.pixels != nullptr) {
      FitPicture(*input.pixels, slot);
      return absl::OkStatus();
    }
    std::string file;
    absl::string_view encoded = input.encoded;
    if (!input.uri.empty()) {
      QUERN_ASSIGN_OR_RETURN(const std::string path,
                             ResolveUri(input.uri, "image.uri"));
      QUERN_ASSIGN_OR_RETURN(
          file, ReadFile(path, embedder_.options_.max_image_bytes));
      encoded = file;
    }
    const ImagePreprocessing& preprocessing = model_->preprocessing();
    // The larger of what the embedding and the grid are made of.
    int64_t width =
        preprocessing.width * std::max<int64_t>(1, options_.grid_scale);
    int64_t height =
        preprocessing.height * std::max<int64_t>(1, options_.grid_scale);
    if (options_.whole_picture) {
      width = std::max(width, model_->info().dense_side);
      height = std::max(height, model_->info().dense_side);
    }
    absl::StatusOr<Image> image =
        embedder_.images_->Decode(encoded, width, height);
    if (!image.ok()) {
      return OfField(input.uri.empty() ? "image.content" : "image.uri",
                     image.status());
    }
    if (options_.picture) {
      slot.picture = std::make_shared<const Image>(*image);
    }
    FitPicture(*std::move(image), slot);
    return absl::OkStatus();
  }

  // To what its rows are made of.
  void FitPicture(Image image, Slot& slot) {
    const ImagePreprocessing& preprocessing = model_->preprocessing();
    slot.width = image.original_width > 0 ? image.original_width : image.width;
    slot.height =
        image.original_height > 0 ? image.original_height : image.height;
    if (options_.whole_picture) {
      const ImagePreprocessing whole = WholePicture(*model_, image);
      slot.image->width = whole.width;
      slot.image->height = whole.height;
      slot.image->rgb = Fit(std::move(image), whole).rgb;
      return;
    }
    if (slot.grid.has_value()) {
      ImagePreprocessing whole = preprocessing;
      whole.mode = ResizeMode::kSquash;
      whole.width = slot.grid->width;
      whole.height = slot.grid->height;
      slot.grid->rgb = Fit(image, whole).rgb;
    }
    slot.image->rgb = Fit(std::move(image), preprocessing).rgb;
  }

  absl::StatusOr<std::string> ResolveUri(absl::string_view uri,
                                         absl::string_view field) const {
    absl::StatusOr<std::string> path =
        ResolveBelow(uri, embedder_.options_.media_roots);
    if (!path.ok()) return Annotate(path.status(), field);
    return path;
  }

  // On a decoder's thread, which waits here while the model is behind.
  void RunVideo(size_t i) {
    Slot& slot = slots_[i];
    slot.result = EmbedVideo(std::get<VideoInput>(inputs_[i]));
    FinishSlot();
  }

  struct Frames {
    absl::Mutex mutex;
    int in_flight ABSL_GUARDED_BY(mutex) = 0;
    absl::Status failure ABSL_GUARDED_BY(mutex);
    std::deque<ImageRow> rows;  // Grows on the decoder's thread alone.
    std::vector<absl::Duration> times;
    std::vector<int64_t> samples;  // At how many sampled times each is shown.
  };

  absl::StatusOr<Embedded> EmbedVideo(const VideoInput& input) {
    VideoSource source{.content = input.encoded};
    const absl::string_view field =
        input.uri.empty() ? "video.content" : "video.uri";
    if (!input.uri.empty()) {
      QUERN_ASSIGN_OR_RETURN(source.path, ResolveUri(input.uri, field));
    }
    const absl::Time began = context_.clock().Now();
    Frames frames;
    const auto check = [&]() -> absl::Status {
      QUERN_RETURN_IF_ERROR(context_.Check("decode"));
      absl::MutexLock lock(&frames.mutex);
      return frames.failure;
    };
    const absl::StatusOr<VideoInfo> info = embedder_.videos_->Decode(
        source, options_.video, model_->preprocessing().width,
        model_->preprocessing().height, check,
        [&](const VideoFrame& frame) { return EncodeFrame(frame, frames); });
    const absl::Time decoded = context_.clock().Now();
    absl::Status status = AwaitFrames(frames, 0);
    status.Update(info.status());
    if (!status.ok()) return OfField(field, std::move(status));
    QUERN_ASSIGN_OR_RETURN(Embedded embedded, TakeFrames(frames, field));
    embedded.width = info->width;
    embedded.height = info->height;
    embedded.duration = info->duration;
    embedded.stages = {{"decode", decoded - began},
                       {"encode", context_.clock().Now() - decoded}};
    return embedded;
  }

  // Waits until `max_in_flight` or fewer frames are under way.
  static absl::Status AwaitFrames(Frames& frames, int max_in_flight) {
    absl::MutexLock lock(&frames.mutex);
    const auto is_free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(frames.mutex) {
      return frames.in_flight <= max_in_flight;
    };
    frames.mutex.Await(absl::Condition(&is_free));
    return frames.failure;
  }

  absl::Status EncodeFrame(const VideoFrame& frame, Frames& frames) {
    QUERN_RETURN_IF_ERROR(AwaitFrames(frames, kFramesInFlight - 1));
    QUERN_RETURN_IF_ERROR(
        model_->image_batcher()->Admit(context_, Lane::kBulk, 1, 1));
    ImageRow& row = frames.rows.emplace_back();
    frames.times.push_back(frame.time);
    frames.samples.push_back(frame.samples);
    row.context = &context_;
    row.lane = Lane::kBulk;
    row.rgb = Fit(frame.image, model_->preprocessing()).rgb;
    row.on_done = [this, &row, &frames] {
      row.rgb = {};  // Long before the last frame is done.
      absl::MutexLock lock(&frames.mutex);
      frames.failure.Update(row.status);
      --frames.in_flight;
    };
    {
      absl::MutexLock lock(&frames.mutex);
      ++frames.in_flight;
    }
    BatchItem* const item = &row;
    model_->image_batcher()->Submit({&item, 1});
    return absl::OkStatus();
  }

  absl::StatusOr<Embedded> TakeFrames(Frames& frames,
                                      absl::string_view field) const {
    const int64_t dimension = model_->info().dimension;
    Embedded embedded;
    embedded.times = std::move(frames.times);
    embedded.dense = {.rows = static_cast<int64_t>(frames.rows.size()),
                      .grid_height = 1,
                      .grid_width = 1,
                      .dimension = dimension};
    std::vector<float>& values = embedded.dense.values;
    values.reserve(frames.rows.size() * dimension);
    for (const ImageRow& row : frames.rows) {
      values.insert(values.end(), row.embedding.begin(), row.embedding.end());
    }
    embedded.samples = std::move(frames.samples);
    absl::StatusOr<std::vector<float>> mean =
        PoolFrames(embedded.frames(), embedded.samples);
    if (!mean.ok()) return OfField(field, mean.status());
    embedded.embedding = *std::move(mean);
    return embedded;
  }

  // A text or a picture comes back from its tower.
  void FinishRow(Slot& slot) {
    if (--slot.rows > 0) return;
    const absl::Time now = context_.clock().Now();
    EncodeRow& row = slot.text.has_value() ? static_cast<EncodeRow&>(*slot.text)
                                           : *slot.image;
    if (slot.grid.has_value()) {
      row.status.Update(slot.grid->status);
      slot.image->dense = std::move(slot.grid->dense);
      slot.grid->rgb = {};
    }
    if (!row.status.ok()) {
      slot.result = row.status;
    } else if (slot.text.has_value()) {
      slot.result = TakeText(slot, now);
    } else {
      slot.result = Embedded{.embedding = std::move(slot.image->embedding),
                             .dense = std::move(slot.image->dense),
                             .picture = std::move(slot.picture),
                             .width = slot.width,
                             .height = slot.height,
                             .stages = {{"decode", slot.decoded - start_},
                                        {"encode", now - slot.decoded}}};
    }
    if (slot.image.has_value()) slot.image->rgb = {};
    FinishSlot();
  }

  Embedded TakeText(Slot& slot, absl::Time now) {
    TextRow& row = *slot.text;
    Embedded embedded{.embedding = std::move(row.embedding),
                      .truncated = row.tokens.truncated,
                      .tokens = static_cast<int64_t>(row.tokens.ids.size()),
                      .token_features = std::move(row.features),
                      .stages = {{"encode", now - start_}}};
    if (options_.tokens) embedded.token_ids = std::move(row.tokens.ids);
    if (!slot.cache_key.empty()) {
      embedder_.cache_.Put(std::move(slot.cache_key),
                           {.embedding = embedded.embedding,
                            .truncated = embedded.truncated,
                            .tokens = embedded.tokens});
    }
    return embedded;
  }

  void FinishSlot() {
    // The last one may delete this object: nothing is touched after it.
    if (--unfinished_ > 0) return;
    // Not on a tower's thread: its next batch waits.
    embedder_.calls_->Resume([this] { End(); });
  }

  void End() {
    const std::unique_ptr<Call> self(this);
    std::vector<absl::StatusOr<Embedded>> results;
    results.reserve(slots_.size());
    for (Slot& slot : slots_) results.push_back(std::move(slot.result));
    done_(std::move(results));
  }

  Embedder& embedder_;
  const RequestContext& context_;
  const std::shared_ptr<const Model> model_;
  const std::vector<EmbedInput> inputs_;
  const EmbedOptions options_;
  const Done done_;
  const Lane lane_;
  const absl::Time start_;
  std::vector<Slot> slots_;
  std::atomic<int64_t> unfinished_;
};

Embedder::Embedder(EmbedderOptions options, const ImageDecoder* images,
                   const VideoDecoder* videos, ThreadPool* calls)
    : options_(std::move(options)),
      images_(images),
      videos_(videos),
      calls_(calls),
      cache_(options_.text_cache_bytes),
      image_threads_({.name = "image-decoders",
                      .threads = options_.decode_threads,
                      .max_queue = kMaxQueuedDecodes}),
      video_threads_({.name = "video-decoders",
                      .threads = options_.decode_threads,
                      .max_queue = kMaxQueuedVideos}) {}

Embedder::~Embedder() = default;

absl::StatusOr<std::string> Embedder::ReadMedia(absl::string_view uri,
                                                int64_t max_bytes) const {
  QUERN_ASSIGN_OR_RETURN(const std::string path,
                         ResolveBelow(uri, options_.media_roots));
  return ReadFile(path, max_bytes);
}

void Embedder::Embed(const RequestContext& context,
                     std::shared_ptr<const Model> model,
                     const std::vector<EmbedInput>& inputs,
                     const EmbedOptions& options, Done done) {
  Call::Start(std::make_unique<Call>(*this, context, std::move(model), inputs,
                                     options, std::move(done)));
}

}  // namespace quern
