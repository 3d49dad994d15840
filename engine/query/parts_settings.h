#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/embed/embedder.h"
#include "engine/model/model.h"
#include "quern/v1/collections.pb.h"

namespace quern {

// What a collection keeps of its items' parts.
struct PartsSettings {
  int64_t grid = 0;              // Most cells a side of a picture; 0: none.
  double frames_per_second = 0;  // Of a video; 0: none.
  int64_t max_frames = 256;
  bool is_compressed = false;  // CompressedFeatures, not QuantizedFeatures.
  bool is_searchable = false;  // Items are found by their parts.
  bool keep_media = false;     // What was embedded: a file's bytes, a text.

  bool keeps_grids() const { return grid > 0; }
  bool keeps_frames() const { return frames_per_second > 0; }
  bool keeps_any() const { return keeps_grids() || keeps_frames(); }
};

// Those of a collection: nothing where it says nothing of parts. Errors:
// kInvalidArgument with field paths from "collection.parts" on.
absl::StatusOr<PartsSettings> PartsSettingsOf(const v1::Collection& record);

// Whether `model` makes what is to be kept; null is a collection without one.
// Errors: kFailedPrecondition naming the capability and the cure.
absl::Status CheckParts(const PartsSettings& settings, const Model* model);

// Asks for what is to be kept beside the embedding.
EmbedOptions EmbedOptionsFor(const PartsSettings& settings,
                             const EmbedInput& input);

// What the store keeps of an item, in the bytes of EncodeParts(); empty where
// nothing is to be kept. `embedded` is of these settings' EmbedOptionsFor().
std::string PartsOf(const PartsSettings& settings, const EmbedInput& input,
                    const Embedded& embedded);

// `maps`, one picture's, with unit cells averaged to at most `grid` a side.
DenseMaps PoolGrid(const DenseMaps& maps, int64_t grid);

}  // namespace quern
