#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/model/model.h"
#include "engine/query/engine.h"
#include "engine/query/jobs.h"

namespace quern {

// Embeds a collection again with another model, or with another version of its
// own, while it is used.
//
// Life of a reindex: the items are copied into a shadow collection
// (Catalog::CreateShadow), each embedded again, with its parts, from the media
// that is kept of it or from its uri; ids, payload, times and etags come along
// -> the shadow's index is put into its best form -> what was written meanwhile
// is read from the change log, round by round -> upserts wait, and nothing
// else, while the last of it is embedded -> with writers waiting, updates and
// deletes of that moment are taken over and the shadow takes the collection's
// place (Catalog::Replace). Upserts also wait, and so go no faster than the new
// model, whenever they get far ahead. Upserts that waited, or come with what
// the old model made, are embedded again by their session.
//
// An item that cannot be embedded again ends it, before the swap: a ready-made
// embedding of another model, one without media, media that is gone. Until the
// swap nothing of the collection changes; the shadow goes with an error, and
// with a crash. Not thread-safe.
class Reindex {
 public:
  // `engine` must outlive it. Errors:
  //   kInvalidArgument     on "model": "none", which embeds nothing
  //   kNotFound            the model
  //   kFailedPrecondition  the model does not make the parts that are kept
  static absl::StatusOr<std::unique_ptr<Reindex>> Create(
      const Engine* engine, std::shared_ptr<Collection> collection,
      const std::string& model);

  // Does it, once, and returns what was done in a sentence. Errors, with the
  // cure:
  //   kFailedPrecondition  items that cannot be embedded again, with their
  //                        number and the first reasons; the model lacks a
  //                        tower, or was unloaded
  //   kAborted             something came between: ask again
  //   kNotFound            the collection was deleted
  //   kResourceExhausted   the disk is full
  //   those of the context
  absl::StatusOr<std::string> Run(RequestContext& context,
                                  const JobReport& report);

 private:
  Reindex(const Engine* engine, std::shared_ptr<Collection> collection,
          std::shared_ptr<const Model> model);

  absl::Status MakeShadow();
  // Whether what all items have in common lets them be embedded again.
  absl::Status CheckModalities(const RequestContext& context);
  absl::Status CopyAll(const RequestContext& context, const JobReport& report);
  class Hold;

  // Whether writers are too far ahead of a sequence number.
  bool IsFarBehind(uint64_t sequence) const;
  // Takes over what was written since; returns how much there was.
  absl::StatusOr<int64_t> CatchUp(const RequestContext& context);
  // Likewise, with the collection's writers waiting: nothing needs the model.
  absl::Status CatchUpLast();
  // Ids that were written after `seen_`, each once, up to `up_to`.
  absl::StatusOr<std::vector<std::string>> ChangedIds(uint64_t up_to) const;
  absl::Status TakeOver(const RequestContext& context,
                        absl::Span<const std::string> ids, uint64_t up_to);
  // Those that the shadow does not have as they are.
  absl::StatusOr<std::vector<Item>> WithoutKnown(std::vector<Item> items) const;
  // Embeds the items; those that cannot be are left out, and remembered.
  absl::StatusOr<std::vector<Item>> Embed(const RequestContext& context,
                                          std::vector<Item> items);
  // One result per item.
  std::vector<absl::StatusOr<PreparedItem>> Prepare(
      const RequestContext& context, absl::Span<const Item* const> items) const;
  void Forget(absl::Span<const std::string> ids);
  absl::Status CheckFailures() const;

  const Engine* const engine_;
  const std::shared_ptr<Collection> collection_;
  const std::shared_ptr<const Model> model_;
  // The package is the collection's own: ready-made embeddings stay as they
  // are.
  const bool same_model_;

  std::shared_ptr<Collection> shadow_;
  uint64_t seen_ = 0;  // The shadow has all changes up to this one.
  int holds_ = 0;      // Of upserts.
  int64_t copied_ = 0;
  std::map<std::string, std::string> failures_;  // Reasons by id.
};

}  // namespace quern
