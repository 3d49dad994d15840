#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"
#include "engine/base/thread_pool.h"
#include "engine/embed/text_cache.h"
#include "engine/media/image.h"
#include "engine/media/video.h"
#include "engine/model/model.h"

namespace quern {

// Views point into the caller's request, which outlives the call.
struct TextInput {
  absl::string_view text;
};
// The file's bytes, or where it lies: a path below one of the media roots.
// Exactly one is set.
struct ImageInput {
  absl::string_view encoded;
  absl::string_view uri;
  // In place of both: the picture, decoded already.
  std::shared_ptr<const Image> pixels = nullptr;
};
struct VideoInput {
  absl::string_view encoded;
  absl::string_view uri;
};
using EmbedInput = std::variant<TextInput, ImageInput, VideoInput>;

// What to compute.
struct EmbedOptions {
  bool embedding = true;  // One vector for the whole input.
  bool dense = false;     // A picture's grid, a video's frames; not for texts.
  bool tokens = false;    // A vector per token; for texts only.
  // The grid of a picture covers all of it, in the size that the model is best
  // read at for finding things: the picture is squashed, neither cut nor
  // padded. Not together with `embedding` or `grid_scale`.
  bool whole_picture = false;
  // The grid of a picture covers all of it evenly: the picture is squashed to
  // this many times the model's input size, neither cut nor padded. 0: the grid
  // is that of the picture as the embedding sees it.
  int64_t grid_scale = 0;
  // Gives the decoded picture too, to cut parts out of it.
  bool picture = false;
  VideoSampling video;
};

struct Embedded {
  std::vector<float> embedding;  // [dimension], L2-normalised.
  bool truncated = false;        // A text was longer than the model reads.
  int64_t tokens = 0;            // Read of a text, special tokens included.

  std::vector<int32_t> token_ids;  // [tokens]
  Matrix token_features;           // [tokens, dimension]

  // Of a picture: one map. Of a video: a row per frame, its embedding being
  // the only cell.
  DenseMaps dense;
  // Where it was asked for. Upright; it may be reduced, see ImageDecoder.
  std::shared_ptr<const Image> picture;
  int64_t width = 0;   // Pixels of the upright original; of a picture or video.
  int64_t height = 0;  // Likewise.
  absl::Duration duration;            // Of a video.
  std::vector<absl::Duration> times;  // Of the frames, from the video's start.
  std::vector<int64_t> samples;  // At how many sampled times each is shown.
  // The frames' embeddings, a row each.
  MatrixView frames() const {
    return {.data = dense.values.data(),
            .rows = dense.rows,
            .columns = dense.dimension};
  }

  std::vector<StageTime> stages;  // decode, encode (with the wait for a batch)
};

struct EmbedderOptions {
  int64_t max_text_bytes = 65'536;     // >= 1.
  int64_t max_image_bytes = 32 << 20;  // Of a file that is read here.
  int decode_threads = 1;        // For pictures; as many for videos. >= 1.
  int64_t text_cache_bytes = 0;  // Zero: no cache.
  // Folders below which media may be read. Empty: none.
  std::vector<std::string> media_roots;
};

// Turns inputs into embeddings. Thread-safe.
//
// Life of an input: check -> admission to the tower's batcher -> decode and
// preprocess, on the decoders' threads (a text: tokenise, on the caller's) ->
// a batch on the tower's threads -> `done`, on a thread of `calls`.
class Embedder {
 public:
  // All must outlive the embedder. `videos` may be null: then videos are
  // refused.
  Embedder(EmbedderOptions options, const ImageDecoder* images,
           const VideoDecoder* videos, ThreadPool* calls);
  ~Embedder();

  // One result per input, in order.
  using Done = std::function<void(std::vector<absl::StatusOr<Embedded>>)>;

  // Calls `done` once, maybe before it returns. `context` and what the inputs
  // point into must live until then. The inputs are admitted together: when
  // the model is overloaded, each has that error. More than 64 inputs, and the
  // frames of videos, travel in the bulk lane. Errors of an input:
  //   kInvalidArgument     with the field path as in quern.v1.Input
  //   kFailedPrecondition  the model lacks the tower or the output
  //   kResourceExhausted   overload; with a retry delay
  //   kPermissionDenied, kNotFound  of a uri
  //   those of the model and of RequestContext::Check()
  void Embed(const RequestContext& context, std::shared_ptr<const Model> model,
             const std::vector<EmbedInput>& inputs, const EmbedOptions& options,
             Done done);

  // The bytes of the file that a `uri` names, as they are. Errors: as Embed()
  // has of a uri; kInvalidArgument when it is longer than `max_bytes`.
  absl::StatusOr<std::string> ReadMedia(absl::string_view uri,
                                        int64_t max_bytes) const;

  const ImageDecoder& images() const { return *images_; }

  TextCache::Stats cache_stats() const { return cache_.stats(); }
  // Pictures and videos that wait for a decoder.
  int64_t queued_decodes() const {
    return static_cast<int64_t>(image_threads_.queued() +
                                video_threads_.queued());
  }

 private:
  class Call;

  const EmbedderOptions options_;
  const ImageDecoder* const images_;
  const VideoDecoder* const videos_;
  ThreadPool* const calls_;
  TextCache cache_;
  // Last: their threads use the others.
  ThreadPool image_threads_;
  ThreadPool video_threads_;
};

}  // namespace quern
