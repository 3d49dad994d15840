#include "engine/query/reindex.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_set.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/query/parts_settings.h"
#include "quern/v1/common.pb.h"

namespace quern {
namespace {

constexpr absl::string_view kNoModel = "none";

// Items that are embedded side by side, and media in memory for it.
constexpr size_t kBatchItems = 64;
constexpr size_t kBatchMediaBytes = 64 << 20;
// Of changes, whose media's size is not known before it is read.
constexpr size_t kChangeItems = 16;
// Upserts that go on while changes are taken over get no further ahead than so
// many, then wait: the old model may be faster than the new one.
constexpr uint64_t kMaxAhead = 256;
// The last round, for which they wait, begins with so few.
constexpr int64_t kFewChanges = 64;
constexpr int kMaxRounds = 5;
// More items than these that fail end the work at once.
constexpr size_t kMaxFailures = 100;
constexpr size_t kReasonsShown = 3;
// The share of the work that is done once everything is copied.
constexpr float kCopyShare = 0.9F;
constexpr float kIndexShare = 0.08F;

constexpr ItemParts kHeader{.payload = false};

// Whether the model had too much to do, and will do it later.
bool IsOverload(const absl::Status& status) {
  return absl::IsResourceExhausted(status) && GetRetryDelay(status).has_value();
}

// What to embed of an item. Errors: kFailedPrecondition saying what lacks.
absl::StatusOr<UpsertInput> InputOf(const Item& item) {
  UpsertInput input{.id = item.id};
  const bool is_kept = !item.media.empty();
  const absl::string_view uri = is_kept ? absl::string_view() : item.media_uri;
  switch (item.modality) {
    case v1::MODALITY_TEXT:
      if (!is_kept) break;
      input.content = TextInput{item.media};
      return input;
    case v1::MODALITY_IMAGE:
      if (!is_kept && uri.empty()) break;
      input.content = ImageInput{.encoded = item.media, .uri = uri};
      return input;
    case v1::MODALITY_VIDEO:
      if (!is_kept && uri.empty()) break;
      input.content = VideoInput{.encoded = item.media, .uri = uri};
      return input;
    default:
      return absl::FailedPreconditionError(
          "is a ready-made embedding, which belongs to the model that made it");
  }
  return absl::FailedPreconditionError(
      item.modality == v1::MODALITY_TEXT
          ? "its text is not kept (parts.keep_media)"
          : "its media is not kept (parts.keep_media) and it has no media_uri");
}

}  // namespace

// Upserts wait while one of them lives.
class Reindex::Hold {
 public:
  explicit Hold(Reindex& reindex) : reindex_(reindex) {
    if (reindex_.holds_++ == 0) reindex_.collection_->HoldUpserts();
  }
  ~Hold() {
    if (--reindex_.holds_ == 0) reindex_.collection_->TakeUpserts();
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  Reindex& reindex_;
};

absl::StatusOr<std::unique_ptr<Reindex>> Reindex::Create(
    const Engine* engine, std::shared_ptr<Collection> collection,
    const std::string& model) {
  if (model == kNoModel) {
    return InvalidField("model",
                        "is \"none\", which embeds nothing: name a model");
  }
  QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const Model> found,
                         engine->models().Get(model));
  QUERN_ASSIGN_OR_RETURN(const PartsSettings parts,
                         PartsSettingsOf(collection->settings()->record));
  QUERN_RETURN_IF_ERROR(CheckParts(parts, found.get()));
  return absl::WrapUnique(
      new Reindex(engine, std::move(collection), std::move(found)));
}

Reindex::Reindex(const Engine* engine, std::shared_ptr<Collection> collection,
                 std::shared_ptr<const Model> model)
    : engine_(engine),
      collection_(std::move(collection)),
      model_(std::move(model)),
      same_model_(collection_->record().model_fingerprint() ==
                      model_->info().fingerprint &&
                  collection_->dimension() == model_->info().dimension) {}

absl::StatusOr<std::string> Reindex::Run(RequestContext& context,
                                         const JobReport& report) {
  QUERN_RETURN_IF_ERROR(CheckModalities(context));
  QUERN_RETURN_IF_ERROR(MakeShadow());
  // Unless it has taken the collection's place by then.
  bool replaced = false;
  const absl::Cleanup drop = [&] {
    if (!replaced) shadow_->Drop();
    shadow_.reset();
  };
  ItemStore& store = collection_->mutable_store();
  // In this order: a trim that is under way goes to no later write.
  store.KeepChanges(store.last_sequence());
  seen_ = store.last_sequence();
  const absl::Cleanup release = [&] { store.KeepChanges(std::nullopt); };
  QUERN_RETURN_IF_ERROR(shadow_->Import({}, {}, seen_));

  QUERN_RETURN_IF_ERROR(CopyAll(context, report));
  shadow_->mutable_index().MarkApplied(seen_);
  QUERN_RETURN_IF_ERROR(CatchUp(context).status());
  QUERN_RETURN_IF_ERROR(CheckFailures());
  report(kCopyShare, "puts the new index into its best form");
  QUERN_RETURN_IF_ERROR(shadow_->mutable_index().Optimize(
      context,
      [&](float done) { report(kCopyShare + kIndexShare * done, ""); }));

  report(kCopyShare + kIndexShare, "takes over what was written meanwhile");
  for (int round = 0; round < kMaxRounds; ++round) {
    QUERN_ASSIGN_OR_RETURN(const int64_t changes, CatchUp(context));
    QUERN_RETURN_IF_ERROR(CheckFailures());
    if (changes <= kFewChanges) break;
  }
  const Hold hold(*this);
  QUERN_RETURN_IF_ERROR(CatchUp(context).status());
  QUERN_RETURN_IF_ERROR(CheckFailures());
  // Searches need the model from the swap on.
  QUERN_RETURN_IF_ERROR(engine_->ModelOf(*shadow_).status());
  QUERN_RETURN_IF_ERROR(context.Check("swap"));
  QUERN_RETURN_IF_ERROR(engine_->catalog().Replace(
      collection_, shadow_, [this] { return CatchUpLast(); }));
  replaced = true;
  return absl::StrCat("embedded ", shadow_->store().count(),
                      " items with model ", Quoted(model_->info().name));
}

absl::Status Reindex::MakeShadow() {
  v1::Collection record = collection_->settings()->record;
  record.clear_status();
  record.set_model(model_->info().name);
  record.set_model_fingerprint(model_->info().fingerprint);
  record.set_dimension(static_cast<int32_t>(model_->info().dimension));
  QUERN_ASSIGN_OR_RETURN(shadow_,
                         engine_->catalog().CreateShadow(std::move(record)));
  return absl::OkStatus();
}

absl::Status Reindex::CheckModalities(const RequestContext& context) {
  absl::flat_hash_set<int32_t> modalities;
  int64_t ready_made = 0;
  std::string first;
  QUERN_RETURN_IF_ERROR(
      collection_->Scan(context, "", kHeader, nullptr, [&](const Item& item) {
        modalities.insert(item.modality);
        if (item.modality == v1::MODALITY_EMBEDDING && ++ready_made == 1) {
          first = item.id;
        }
        return true;
      }));
  if (ready_made > 0 && !same_model_) {
    return absl::FailedPreconditionError(absl::StrCat(
        ready_made, " of ", collection_->store().count(),
        " items are ready-made embeddings, which belong to the model that made "
        "them (the first is ",
        Quoted(first),
        "): nothing has changed; delete them, or upsert their media, and ask "
        "again"));
  }
  if (modalities.contains(v1::MODALITY_TEXT)) {
    QUERN_RETURN_IF_ERROR(
        Annotate(model_->Require("text.global"), "the collection has texts"));
  }
  if (modalities.contains(v1::MODALITY_IMAGE) ||
      modalities.contains(v1::MODALITY_VIDEO)) {
    QUERN_RETURN_IF_ERROR(Annotate(model_->Require("image.global"),
                                   "the collection has pictures or videos"));
  }
  return absl::OkStatus();
}

absl::Status Reindex::CopyAll(const RequestContext& context,
                              const JobReport& report) {
  const ItemParts parts{
      .payload = true, .embedding = same_model_, .media = true};
  std::string after_id;
  while (true) {
    std::vector<Item> items;
    size_t media_bytes = 0;
    // Not embedded in the callback: a store that was full waits for its
    // readers.
    QUERN_RETURN_IF_ERROR(
        collection_->Scan(context, after_id, parts, nullptr, [&](Item item) {
          media_bytes += item.media.size();
          items.push_back(std::move(item));
          return items.size() < kBatchItems && media_bytes < kBatchMediaBytes;
        }));
    if (items.empty()) return absl::OkStatus();
    after_id = items.back().id;
    copied_ += static_cast<int64_t>(items.size());
    // CatchUp() may have come by some of them before.
    QUERN_ASSIGN_OR_RETURN(items, WithoutKnown(std::move(items)));
    QUERN_ASSIGN_OR_RETURN(const std::vector<Item> embedded,
                           Embed(context, std::move(items)));
    QUERN_RETURN_IF_ERROR(shadow_->Import(embedded, {}, seen_));
    if (failures_.size() >= kMaxFailures) return CheckFailures();
    if (IsFarBehind(seen_)) QUERN_RETURN_IF_ERROR(CatchUp(context).status());
    const int64_t total = std::max(copied_, collection_->store().count());
    report(kCopyShare * static_cast<float>(copied_) / static_cast<float>(total),
           absl::StrCat("embedded ", copied_, " of ", total, " items with ",
                        Quoted(model_->info().name)));
  }
}

absl::StatusOr<std::vector<std::string>> Reindex::ChangedIds(
    uint64_t up_to) const {
  const ItemStore& store = collection_->store();
  absl::flat_hash_set<std::string> ids;
  QUERN_RETURN_IF_ERROR(
      store.ScanChanges(seen_, [&](uint64_t sequence, absl::string_view id) {
        if (sequence > up_to) return false;
        ids.emplace(id);
        return true;
      }));
  if (store.trimmed_sequence() > seen_) {
    return absl::AbortedError(
        "the change log was cut off under the job: ask again");
  }
  return std::vector<std::string>(ids.begin(), ids.end());
}

bool Reindex::IsFarBehind(uint64_t sequence) const {
  return collection_->store().last_sequence() - sequence > kMaxAhead;
}

absl::StatusOr<int64_t> Reindex::CatchUp(const RequestContext& context) {
  const uint64_t up_to = collection_->store().last_sequence();
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> ids, ChangedIds(up_to));
  const absl::Span<const std::string> all(ids);
  std::optional<Hold> hold;
  for (size_t i = 0; i < all.size(); i += kChangeItems) {
    if (!hold.has_value() && IsFarBehind(up_to)) hold.emplace(*this);
    QUERN_RETURN_IF_ERROR(
        TakeOver(context, all.subspan(i, kChangeItems), up_to));
    if (failures_.size() >= kMaxFailures) return CheckFailures();
  }
  seen_ = up_to;
  shadow_->mutable_index().MarkApplied(seen_);
  collection_->mutable_store().KeepChanges(seen_);
  return static_cast<int64_t>(ids.size());
}

absl::Status Reindex::TakeOver(const RequestContext& context,
                               absl::Span<const std::string> ids,
                               uint64_t up_to) {
  Forget(ids);
  QUERN_ASSIGN_OR_RETURN(
      std::vector<std::optional<Item>> now,
      collection_->store().Get(
          ids, {.payload = true, .embedding = same_model_, .media = true}));
  std::vector<Item> changed;
  std::vector<std::string> gone;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (now[i].has_value()) {
      changed.push_back(*std::move(now[i]));
    } else {
      gone.push_back(ids[i]);
    }
  }
  QUERN_ASSIGN_OR_RETURN(changed, WithoutKnown(std::move(changed)));
  QUERN_ASSIGN_OR_RETURN(const std::vector<Item> embedded,
                         Embed(context, std::move(changed)));
  return shadow_->Import(embedded, gone, up_to);
}

absl::StatusOr<std::vector<Item>> Reindex::WithoutKnown(
    std::vector<Item> items) const {
  std::vector<std::string> ids;
  for (const Item& item : items) ids.push_back(item.id);
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::optional<Item>> known,
                         shadow_->store().Get(ids, kHeader));
  std::vector<Item> left;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!known[i].has_value() || known[i]->sequence != items[i].sequence) {
      left.push_back(std::move(items[i]));
    }
  }
  return left;
}

absl::Status Reindex::CatchUpLast() {
  const uint64_t up_to = collection_->store().last_sequence();
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> ids, ChangedIds(up_to));
  std::vector<Item> changed;
  std::vector<std::string> gone;
  for (const std::string& id : ids) {
    QUERN_ASSIGN_OR_RETURN(std::vector<std::optional<Item>> now,
                           collection_->store().Get({id}, {.payload = true}));
    if (!now.front().has_value()) {
      gone.push_back(id);
      continue;
    }
    QUERN_ASSIGN_OR_RETURN(std::vector<std::optional<Item>> made,
                           shadow_->store().Get({id}, {.payload = false,
                                                       .embedding = true,
                                                       .parts = true,
                                                       .media = true}));
    // Upserts were held before the last round: this one was updated since. It
    // may have been saved from expiring only now.
    if (!made.front().has_value()) {
      return absl::AbortedError(absl::StrCat(
          "item ", Quoted(id), " was updated as it expired: ask again"));
    }
    Item& item = *now.front();
    item.embedding = std::move(made.front()->embedding);
    item.parts = std::move(made.front()->parts);
    item.media = std::move(made.front()->media);
    changed.push_back(std::move(item));
  }
  QUERN_RETURN_IF_ERROR(shadow_->Import(changed, gone, up_to));
  shadow_->mutable_index().MarkApplied(up_to);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Item>> Reindex::Embed(const RequestContext& context,
                                                 std::vector<Item> items) {
  // Whatever it was that unloaded the model, each item would fail of it.
  QUERN_RETURN_IF_ERROR(engine_->ModelOf(*shadow_).status());
  std::vector<Item*> left;
  for (Item& item : items) {
    const bool stays = item.modality == v1::MODALITY_EMBEDDING && same_model_;
    if (!stays) left.push_back(&item);
  }
  while (!left.empty()) {
    std::vector<absl::StatusOr<PreparedItem>> prepared =
        Prepare(context, {left.data(), left.size()});
    QUERN_RETURN_IF_ERROR(context.Check("encode"));
    std::vector<Item*> again;
    absl::Duration delay;
    for (size_t i = 0; i < left.size(); ++i) {
      Item& item = *left[i];
      if (prepared[i].ok()) {
        item.embedding = std::move(prepared[i]->item.embedding);
        item.parts = std::move(prepared[i]->item.parts);
        if (item.media.empty()) item.media = prepared[i]->item.media;
      } else if (const absl::Status& status = prepared[i].status();
                 IsOverload(status)) {
        again.push_back(&item);
        delay = std::max(delay, *GetRetryDelay(status));
      } else {
        item.embedding.clear();
        failures_[item.id] = std::string(status.message());
      }
    }
    left = std::move(again);
    if (!left.empty()) {
      absl::SleepFor(std::min(delay, absl::Seconds(1)));
      QUERN_RETURN_IF_ERROR(context.Check("encode"));
    }
  }
  std::erase_if(items,
                [&](const Item& item) { return failures_.contains(item.id); });
  return items;
}

std::vector<absl::StatusOr<PreparedItem>> Reindex::Prepare(
    const RequestContext& context, absl::Span<const Item* const> items) const {
  std::vector<absl::StatusOr<PreparedItem>> prepared(
      items.size(), absl::UnknownError("not done"));
  std::vector<UpsertInput> inputs(items.size());
  absl::BlockingCounter unfinished(static_cast<int>(items.size()));
  for (size_t i = 0; i < items.size(); ++i) {
    absl::StatusOr<UpsertInput> input = InputOf(*items[i]);
    if (!input.ok()) {
      prepared[i] = input.status();
      unfinished.DecrementCount();
      continue;
    }
    inputs[i] = *std::move(input);
    engine_->PrepareItem(context, *shadow_, inputs[i],
                         [&, i](absl::StatusOr<PreparedItem> item) {
                           prepared[i] = std::move(item);
                           unfinished.DecrementCount();
                         });
  }
  unfinished.Wait();
  return prepared;
}

void Reindex::Forget(absl::Span<const std::string> ids) {
  for (const std::string& id : ids) failures_.erase(id);
}

absl::Status Reindex::CheckFailures() const {
  if (failures_.empty()) return absl::OkStatus();
  std::string message = absl::StrCat(
      failures_.size() >= kMaxFailures ? "at least " : "", failures_.size(),
      failures_.size() == 1 ? " item" : " items", " of ",
      collection_->store().count(), " cannot be embedded with model ",
      Quoted(model_->info().name), ", so nothing has changed:");
  size_t shown = 0;
  for (const auto& [id, reason] : failures_) {
    if (shown++ == kReasonsShown) break;
    absl::StrAppend(&message, shown == 1 ? " " : "; ", Quoted(id), ": ",
                    reason);
  }
  if (shown > kReasonsShown) absl::StrAppend(&message, "; and others");
  return absl::FailedPreconditionError(
      absl::StrCat(message, ". Upsert or delete them, and ask again"));
}

}  // namespace quern
