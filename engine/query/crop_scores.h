#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/fine/region_grounder.h"
#include "engine/media/image.h"
#include "engine/query/engine.h"

namespace quern {

// What RegionGrounder::Propose() gave for a text.
struct TextProposals {
  absl::Span<const float> embedding;  // [dimension], length one: of the text.
  std::vector<GroundedRegion> regions;
};

// `box` of `picture`, widened by its context, as a picture of its own.
Image Crop(const Image& picture, const Box& box);

// Has the crops of each text's `depth` >= 1 best proposals embedded as pictures
// of their own (ReCLIP's and R-CNN's second look; Subramanian et al., 2022,
// section 3.1) and adds the cosine of each with the text, weighed, to its
// score. A box that several texts propose is embedded once. `done` is called
// once, maybe before it returns; `engine`, `context` and `proposals` must live
// until then. Errors: those of Embedder::Embed().
void AddCropScores(const Engine& engine, const RequestContext& context,
                   const std::shared_ptr<const Model>& model,
                   const std::shared_ptr<const Image>& picture, int64_t depth,
                   std::vector<TextProposals>& proposals,
                   std::function<void(const absl::Status&)> done);

}  // namespace quern
