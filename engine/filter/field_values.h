#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/filter/filter.h"

// What a filter sees of an item.

namespace quern {

struct FieldValues {
  struct Entry {
    uint32_t field;  // Index in the declarations.
    FieldValue value;

    friend bool operator==(const Entry&, const Entry&) = default;
  };
  std::vector<Entry> entries;  // In the order of `field`.
  int32_t modality = 0;        // A v1::Modality.

  friend bool operator==(const FieldValues&, const FieldValues&) = default;
};

// The declared fields of `payload`, a serialised google.protobuf.Struct. What
// is not of the declared type is left out, as if the field were absent: null, a
// number where text is declared, text that is no RFC 3339 time, NaN, a list in
// a field that is not repeated. In a repeated one, the list's values of the
// right type count, a single value is a list of one, and a path may lead
// through lists of structs ("objects.label").
// Errors: kInvalidArgument (field "payload"): the bytes are not such a message.
absl::StatusOr<FieldValues> ReadFields(
    absl::string_view payload, int32_t modality,
    absl::Span<const FieldDeclaration> fields);

// Whether `values`, read with the declarations of `filter`, match it: the
// definition of what filters mean. Takes time in the number of comparisons
// times the number of values.
bool Matches(const Filter& filter, const FieldValues& values);

}  // namespace quern
