#include "engine/query/search_lot.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/memory/memory.h"

namespace quern {
namespace {

// Lists of those that are alike, each in the order of `searches`.
template <typename Alike>
std::vector<std::vector<StagedSearch*>> GroupBy(
    absl::Span<StagedSearch* const> searches, const Alike& alike) {
  std::vector<std::vector<StagedSearch*>> groups;
  for (StagedSearch* const search : searches) {
    const auto group = std::find_if(
        groups.begin(), groups.end(),
        [&](const auto& members) { return alike(*members.front(), *search); });
    if (group != groups.end()) {
      group->push_back(search);
    } else {
      groups.push_back({search});
    }
  }
  return groups;
}

bool AskAlike(const StagedSearch& a, const StagedSearch& b) {
  return a.question() == b.question();
}

bool ReadAlike(const StagedSearch& a, const StagedSearch& b) {
  const auto key = [](const StagedSearch& search) {
    const ItemParts read = search.read();
    return std::make_tuple(search.question().collection, read.header,
                           read.payload, read.embedding, read.parts,
                           read.media);
  };
  return key(a) == key(b);
}

}  // namespace

void SearchLot::Start(std::vector<std::shared_ptr<StagedSearch>> searches,
                      std::shared_ptr<AnswerBudget> budget) {
  if (searches.empty()) return;
  const std::shared_ptr<SearchLot> lot =
      absl::WrapUnique(new SearchLot(std::move(searches), std::move(budget)));
  for (size_t i = 0; i < lot->searches_.size(); ++i) {
    lot->searches_[i]->Encode([lot, i](absl::Status status) {
      lot->encoded_[i] = std::move(status);
      if (--lot->encoding_ == 0) lot->Run();
    });
  }
}

SearchLot::SearchLot(std::vector<std::shared_ptr<StagedSearch>> searches,
                     std::shared_ptr<AnswerBudget> budget)
    : searches_(std::move(searches)),
      budget_(std::move(budget)),
      encoded_(searches_.size()),
      encoding_(searches_.size()) {}

void SearchLot::Run() {
  const std::vector<StagedSearch*> shared = BeginAll();
  for (const auto& group : GroupBy(shared, AskAlike)) AskTogether(group);
  std::vector<StagedSearch*> chosen;
  for (StagedSearch* const search : shared) {
    if (search->leaves_thread()) {
      search->GoOn();
      continue;
    }
    absl::Status status = search->Choose();
    if (status.ok()) status = search->context().Check("fetch");
    if (status.ok()) {
      chosen.push_back(search);
    } else {
      search->End(std::move(status));
    }
  }
  for (const auto& group : GroupBy(chosen, ReadAlike)) FetchTogether(group);
}

std::vector<StagedSearch*> SearchLot::BeginAll() {
  std::vector<StagedSearch*> shared;
  for (size_t i = 0; i < searches_.size(); ++i) {
    StagedSearch& search = *searches_[i];
    absl::Status status = std::move(encoded_[i]);
    if (status.ok()) status = search.Begin();
    if (!status.ok()) {
      search.End(std::move(status));
    } else if (search.can_share()) {
      shared.push_back(&search);
    } else {
      search.GoOn();
    }
  }
  return shared;
}

// On an error each asks by itself, and so learns of it.
void SearchLot::AskTogether(absl::Span<StagedSearch* const> searches) {
  StagedSearch& first = *searches.front();
  std::vector<float> values;
  for (const StagedSearch* search : searches) {
    values.insert(values.end(), search->query_vector().begin(),
                  search->query_vector().end());
  }
  const absl::Time start = first.context().clock().Now();
  SearchStats stats;
  absl::StatusOr<std::vector<std::vector<ScoredId>>> lists =
      first.question().collection->index().Search(
          first.context(),
          {.data = values.data(),
           .rows = static_cast<int64_t>(searches.size()),
           .columns = static_cast<int64_t>(first.query_vector().size())},
          first.index_options(), &stats);
  if (!lists.ok()) return;
  const absl::Duration time = first.context().clock().Now() - start;
  for (size_t i = 0; i < searches.size(); ++i) {
    searches[i]->TakeCoarse(std::move((*lists)[i]), stats, time);
  }
}

// Likewise, but for hits that are too large together.
void SearchLot::FetchTogether(absl::Span<StagedSearch* const> searches) const {
  StagedSearch& first = *searches.front();
  std::vector<std::string> ids;
  for (const StagedSearch* search : searches) {
    for (const ScoredId& hit : search->chosen()) ids.push_back(hit.id);
  }
  const absl::Time start = first.context().clock().Now();
  absl::StatusOr<std::vector<std::optional<Item>>> items =
      ReadHits(first.context(), first.question().collection->store(), ids,
               first.read(), *budget_);
  if (absl::IsResourceExhausted(items.status())) {
    for (StagedSearch* const search : searches) search->End(items.status());
    return;
  }
  if (!items.ok()) {
    for (StagedSearch* const search : searches) search->GoOn();
    return;
  }
  const absl::Duration time = first.context().clock().Now() - start;
  size_t at = 0;
  for (StagedSearch* const search : searches) {
    const size_t count = search->chosen().size();
    search->AddHits(absl::MakeSpan(*items).subspan(at, count), time);
    at += count;
    search->End(absl::OkStatus());
  }
}

}  // namespace quern
