// What is kept of an item's parts, in either form of its features. What is read
// is what was written; scoring it stays within its memory.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

#include "engine/fine/item_parts.h"
#include "engine/fine/late_interaction.h"
#include "engine/fine/part_cosines.h"
#include "tests/fuzz/require.h"

namespace quern {
namespace {

// So that a few bytes that speak of millions of columns cost no minutes.
constexpr int64_t kMaxColumns = 4096;

void ScoreParts(const PartsView& view) {
  const int64_t columns = view.features.columns;
  const std::vector<float> query(columns, 1);
  std::vector<float> cosines;
  PartCosines(query).Of(view, cosines);
  QUERN_FUZZ_REQUIRE(static_cast<int64_t>(cosines.size()) ==
                     view.features.rows);
  QUERN_FUZZ_REQUIRE(static_cast<int64_t>(WeightedRows(view, cosines).size()) ==
                     columns);
  const Matrix tokens(5, columns, std::vector<float>(5 * columns, 1));
  const auto scorer = LateInteraction::Create(tokens.view());
  QUERN_FUZZ_REQUIRE(scorer.ok());
  if (view.compressed != nullptr) {
    (void)scorer->Score(*view.compressed);
  } else {
    (void)scorer->Score(view.features);
  }
  (void)EvidenceOf(view, view.features.rows - 1);
}

void RunParts(absl::string_view bytes) {
  const auto shape = DecodePartsShape(bytes);
  PartsReader reader;
  const auto view = reader.Read(bytes);
  if (!view.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsDataLoss(view.status()));
    QUERN_FUZZ_REQUIRE(absl::IsDataLoss(DecodeParts(bytes).status()));
    return;
  }
  QUERN_FUZZ_REQUIRE(shape.ok());
  if (view->features.columns > kMaxColumns) return;
  const auto parts = DecodeParts(bytes);
  QUERN_FUZZ_REQUIRE(parts.ok());
  QUERN_FUZZ_REQUIRE(parts->features.rows == view->features.rows);
  QUERN_FUZZ_REQUIRE((view->compressed != nullptr
                          ? EncodeParts(*parts, *view->compressed)
                          : EncodeParts(*parts)) == bytes);
  ScoreParts(*view);
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quern::RunParts({reinterpret_cast<const char*>(data), size});
  return 0;
}
