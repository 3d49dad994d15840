#include "engine/query/upsert_session.h"

#include <utility>
#include <variant>

#include "absl/memory/memory.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "engine/base/status_macros.h"

namespace quern {
namespace {

// Items written together at most: bounds the time until the first of them is
// acknowledged.
constexpr size_t kMaxCommitItems = 256;

constexpr absl::Duration kPoll = absl::Milliseconds(5);

}  // namespace

std::shared_ptr<UpsertSession> UpsertSession::Create(
    const Engine* engine, ThreadPool* pool, RequestContext* context,
    std::shared_ptr<Collection> collection, OnResults on_results) {
  return absl::WrapUnique(new UpsertSession(
      engine, pool, context, std::move(collection), std::move(on_results)));
}

UpsertSession::UpsertSession(const Engine* engine, ThreadPool* pool,
                             RequestContext* context,
                             std::shared_ptr<Collection> collection,
                             OnResults on_results)
    : engine_(engine),
      pool_(pool),
      context_(context),
      on_results_(std::move(on_results)),
      collection_(std::move(collection)) {}

void UpsertSession::Add(UpsertInput input, std::shared_ptr<const void> owner) {
  int64_t index = 0;
  {
    absl::MutexLock lock(&mutex_);
    index = next_added_++;
  }
  Start(std::make_shared<Work>(Work{
      .index = index, .input = std::move(input), .owner = std::move(owner)}));
}

void UpsertSession::Start(std::shared_ptr<Work> work) {
  {
    absl::MutexLock lock(&mutex_);
    collection_ = Collection::Newest(std::move(collection_));
    work->collection = collection_;
  }
  const int64_t index = work->index;
  if (std::holds_alternative<EmbeddingInput>(work->input.content)) {
    Prepare(std::move(work), [&](Prepared prepared) {
      if (Enqueue(index, std::move(prepared))) CommitAllOnPool();
    });
    return;
  }
  absl::Status submitted = pool_->Submit(
      [self = shared_from_this(), work] {
        self->Prepare(work, [self, index = work->index](Prepared prepared) {
          if (self->Enqueue(index, std::move(prepared))) self->CommitAll();
        });
      },
      Lane::kBulk);
  if (submitted.ok()) return;
  if (Enqueue(index, {.result = {.index = index,
                                 .id = work->input.id,
                                 .status = std::move(submitted)}})) {
    CommitAllOnPool();
  }
}

void UpsertSession::Prepare(std::shared_ptr<Work> work,
                            std::function<void(Prepared)> done) {
  const Work& prepare = *work;
  auto finish = [work = std::move(work),
                 done = std::move(done)](absl::StatusOr<PreparedItem> item) {
    Prepared prepared{.result = {.index = work->index, .id = work->input.id}};
    if (item.ok()) {
      prepared.work = work;
      prepared.item = std::move(item->item);
      prepared.result.truncated = item->truncated;
      prepared.result.stages = std::move(item->stages);
    } else {
      prepared.result.status = item.status();
    }
    done(std::move(prepared));
  };
  const absl::Status awaited = context_->Check("encode");
  if (!awaited.ok()) return finish(awaited);
  engine_->PrepareItem(*context_, *prepare.collection, prepare.input,
                       std::move(finish));
}

void UpsertSession::AddRefused(std::string id, absl::Status status) {
  int64_t index = 0;
  {
    absl::MutexLock lock(&mutex_);
    index = next_added_++;
  }
  if (Enqueue(index, {.result = {.index = index,
                                 .id = std::move(id),
                                 .status = std::move(status)}})) {
    CommitAllOnPool();
  }
}

int64_t UpsertSession::pending() const {
  absl::MutexLock lock(&mutex_);
  return next_added_ - next_committed_;
}

bool UpsertSession::Enqueue(int64_t index, Prepared prepared) {
  absl::MutexLock lock(&mutex_);
  line_.emplace(index, std::move(prepared));
  if (committing_ || line_.begin()->first != next_committed_) return false;
  committing_ = true;
  return true;
}

void UpsertSession::CommitAllOnPool() {
  const auto commit = [self = shared_from_this()] { self->CommitAll(); };
  // What was taken from the stream must be answered.
  if (!pool_->Submit(commit, Lane::kBulk).ok()) pool_->Resume(commit);
}

void UpsertSession::CommitAll() {
  while (true) {
    std::vector<Prepared> batch;
    {
      absl::MutexLock lock(&mutex_);
      batch = TakeReady();
      committing_ = !batch.empty();
      if (!committing_) return;
    }
    std::optional<std::vector<UpsertResult>> results = Commit(std::move(batch));
    if (!results.has_value()) return;
    {
      absl::MutexLock lock(&mutex_);
      next_committed_ += static_cast<int64_t>(results->size());
    }
    on_results_(*std::move(results));
  }
}

std::vector<UpsertSession::Prepared> UpsertSession::TakeReady() {
  std::vector<Prepared> ready;
  const Collection* collection = nullptr;
  int64_t next = next_committed_;
  while (ready.size() < kMaxCommitItems && !line_.empty() &&
         line_.begin()->first == next) {
    if (const auto& work = line_.begin()->second.work; work != nullptr) {
      if (collection == nullptr) collection = work->collection.get();
      if (collection != work->collection.get()) break;
    }
    ready.push_back(std::move(line_.begin()->second));
    line_.erase(line_.begin());
    ++next;
  }
  return ready;
}

std::optional<std::vector<UpsertResult>> UpsertSession::Commit(
    std::vector<Prepared> batch) {
  std::vector<Item> items;
  std::vector<size_t> result_of_item;
  std::shared_ptr<Collection> collection;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!batch[i].result.status.ok()) continue;
    collection = batch[i].work->collection;
    items.push_back(std::move(batch[i].item));
    result_of_item.push_back(i);
  }
  const absl::Time start = context_->clock().Now();
  absl::StatusOr<std::vector<PutResult>> written = std::vector<PutResult>();
  if (collection != nullptr) {
    const absl::Status room = AwaitRoom(*collection);
    written = room.ok() ? collection->Upsert(items) : room;
  }
  if (Collection::MustWait(written.status())) {
    collection->AwaitUpserts(
        [self = shared_from_this(), batch = std::move(batch)]() mutable {
          self->PrepareAgain(std::move(batch));
        });
    return std::nullopt;
  }
  std::vector<UpsertResult> results;
  results.reserve(batch.size());
  for (Prepared& prepared : batch) {
    results.push_back(std::move(prepared.result));
  }
  if (items.empty()) return results;
  results[result_of_item.front()].stages.push_back(
      {"store", context_->clock().Now() - start});
  for (size_t i = 0; i < items.size(); ++i) {
    UpsertResult& result = results[result_of_item[i]];
    if (written.ok()) {
      result.status = (*written)[i].status;
      result.created = (*written)[i].created;
      result.sequence = (*written)[i].sequence;
    } else {
      result.status = written.status();
    }
  }
  return results;
}

absl::Status UpsertSession::AwaitRoom(const Collection& collection) const {
  while (collection.index().is_full()) {
    QUERN_RETURN_IF_ERROR(context_->Check("the index to keep up"));
    absl::SleepFor(kPoll);
  }
  return absl::OkStatus();
}

void UpsertSession::PrepareAgain(std::vector<Prepared> batch) {
  {
    absl::MutexLock lock(&mutex_);
    committing_ = false;
  }
  for (Prepared& prepared : batch) {
    if (prepared.result.status.ok()) {
      Start(std::move(prepared.work));
    } else if (const int64_t index = prepared.result.index;
               Enqueue(index, std::move(prepared))) {
      CommitAllOnPool();
    }
  }
}

}  // namespace quern
