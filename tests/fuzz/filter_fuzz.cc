// The first byte says what the rest is: 'f' the text of a filter, 'p' a payload
// whose fields are read, 'i' the inside of an index of fields, without the
// checksum that would keep every change out.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include <zlib.h>

#include "engine/base/error.h"
#include "engine/base/utf8.h"
#include "engine/filter/field_index.h"
#include "engine/filter/field_values.h"
#include "engine/filter/filter.h"
#include "tests/fuzz/require.h"

namespace quern {
namespace {

constexpr uint64_t kRowLimit = 1 << 20;

const std::vector<FieldDeclaration>& Fields() {
  static const auto* fields = new std::vector<FieldDeclaration>{
      {"s", FieldType::kString},
      {"n", FieldType::kNumber},
      {"b", FieldType::kBool},
      {"t", FieldType::kTimestamp},
      {"l", FieldType::kString, /*repeated=*/true},
      {"m", FieldType::kNumber, /*repeated=*/true},
      {"o.ü \"x", FieldType::kString},
  };
  return *fields;
}

struct Items {
  std::vector<FieldValues> values;
  FieldIndex index{Fields()};
};

// The item of a row: values that short filters hit, each missing in some rows.
FieldValues ItemOf(uint32_t row) {
  const std::vector<std::string> texts = {"", "a", "ab", "b", "é", "\xFF", "*"};
  const FieldValue text = texts[row % texts.size()];
  const FieldValue number = row * 0.5 - 2;
  const FieldValue yes = row % 4 == 0;
  const FieldValue time = absl::FromUnixSeconds(1714557600 + row);
  const FieldValue more = std::string("c");
  FieldValues item{.modality = static_cast<int32_t>(row % 3)};
  if (row % 2 == 0) item.entries.push_back({0, text});
  if (row % 3 == 0) item.entries.push_back({1, number});
  if (row % 5 != 0) item.entries.push_back({2, yes});
  if (row % 5 < 3) item.entries.push_back({3, time});
  if (row % 7 < 5) item.entries.push_back({4, text});
  if (row % 7 < 3) item.entries.push_back({4, more});
  if (row % 4 == 1) item.entries.push_back({5, number});
  if (row % 6 == 1) item.entries.push_back({6, text});
  return item;
}

const Items& TheItems() {
  static const auto* items = [] {
    auto* made = new Items();
    for (uint32_t row = 0; row < 64; ++row) {
      made->values.push_back(ItemOf(row));
      made->index.Add(row, made->values.back());
    }
    return made;
  }();
  return *items;
}

void CheckMatch(const Filter& filter) {
  const RowSet rows = TheItems().index.Match(&filter, {});
  for (uint32_t row = 0; row < TheItems().values.size(); ++row) {
    QUERN_FUZZ_REQUIRE(rows.Contains(row) ==
                       Matches(filter, TheItems().values[row]));
  }
  QUERN_FUZZ_REQUIRE(TheItems().index.Estimate(&filter, {}) >= rows.size());
}

void RunFilter(absl::string_view text) {
  const auto filter = ParseFilter(text, Fields());
  if (!filter.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsInvalidArgument(filter.status()));
    QUERN_FUZZ_REQUIRE(GetField(filter.status()) == "filter");
    QUERN_FUZZ_REQUIRE(IsValidUtf8(filter.status().message()));
    return;
  }
  if (*filter == nullptr) return;
  CheckMatch(**filter);
  const std::string canonical = (*filter)->DebugString();
  if (canonical.size() > kMaxFilterBytes) return;
  const auto again = ParseFilter(canonical, Fields());
  QUERN_FUZZ_REQUIRE(again.ok());
  QUERN_FUZZ_REQUIRE((*again)->root() == (*filter)->root());
  QUERN_FUZZ_REQUIRE((*again)->DebugString() == canonical);
}

void RunPayload(absl::string_view payload) {
  const auto values = ReadFields(payload, 1, Fields());
  if (!values.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsInvalidArgument(values.status()));
    return;
  }
  for (const auto& [field, value] : values->entries) {
    QUERN_FUZZ_REQUIRE(field < Fields().size());
    QUERN_FUZZ_REQUIRE(value.index() ==
                       static_cast<size_t>(Fields()[field].type));
  }
  FieldIndex index(Fields());
  index.Add(0, *values);
  QUERN_FUZZ_REQUIRE(FieldIndex::Parse(FieldIndexWriter(index).Take()).ok());
}

void RunIndex(absl::string_view body) {
  std::string bytes = absl::StrCat(absl::string_view("QNFI\1\0\0\0", 8), body);
  const auto checksum = static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  auto index = FieldIndex::Parse(bytes, kRowLimit);
  if (!index.ok()) {
    QUERN_FUZZ_REQUIRE(absl::IsDataLoss(index.status()));
    return;
  }
  // What it writes is in order, whatever it was read from.
  const std::string written = FieldIndexWriter(*index).Take();
  const auto again = FieldIndex::Parse(written, kRowLimit);
  QUERN_FUZZ_REQUIRE(again.ok());
  QUERN_FUZZ_REQUIRE(FieldIndexWriter(*again).Take() == written);

  std::vector<uint64_t> bits(kRowLimit / 64);
  for (const absl::string_view text :
       {"s < b AND l:\"a*\"", "n >= 0 OR b = true OR t:*", "NOT m IN (1, 2)"}) {
    const auto filter = ParseFilter(text, Fields());
    const RowSet rows = index->Match(filter->get(), {0, 1});
    QUERN_FUZZ_REQUIRE(rows.IsSubsetOf(index->rows()));
    rows.ToBitset(absl::MakeSpan(bits));
    index->Estimate(filter->get(), {});
  }
  index->Add(kRowLimit, TheItems().values[0]);
  index->Remove(0);
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  switch (data[0]) {
    case 'f':
      quern::RunFilter(rest);
      break;
    case 'p':
      quern::RunPayload(rest);
      break;
    case 'i':
      quern::RunIndex(rest);
      break;
    default:
      break;
  }
  return 0;
}
