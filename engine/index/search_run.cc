#include "engine/index/search_run.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "engine/base/guard.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "the index";
constexpr absl::string_view kEnd = "the end of the search";
// Neighbours of a row that a graph's search has not met yet, on average: what
// a step costs beside comparing one listed row.
constexpr int64_t kRowsPerStep = 24;
// Width of a beam at which keeping it in order, by moving what is worse than
// each new row, takes as long as the steps themselves (512 int8 values; it was
// measured from 1,000 to 50,000).
constexpr double kWidthOfTwice = 32'768;
// Reading rows in order costs a part of jumping between them.
constexpr int64_t kSequentialGain = 2;
// Binary codes take a small part of what comparing a listed row does.
constexpr int64_t kGainOfBits = 16;
constexpr int64_t kPointsOfK = 10;  // Operating points are for this k.
// So many pieces for each worker even out what some take longer; but none is
// smaller than this part of the least that the crew is asked for.
constexpr double kPiecesPerWorker = 8;
constexpr double kSmallestPiece = 0.25;
// Of queries whose rows are in the cache when their turn comes, beside the
// first.
constexpr double kCachedCost = 0.4;
// Of binary codes, with the few vectors that are compared.
constexpr double kCostOfBits = 2;
// Queries whose short lists are made exact by one thread at once.
constexpr size_t kTakenTogether = 4;

double Product(int64_t a, double b) { return static_cast<double>(a) * b; }

// Of a graph with a beam of `width`, in listed rows that are compared.
double CostOfWalk(int64_t width) {
  return Product(width * kRowsPerStep,
                 1 + static_cast<double>(width) / kWidthOfTwice);
}

}  // namespace

SearchRun::SearchRun(const SearchRunOptions& index,
                     const RequestContext& context,
                     absl::Span<const IndexPart> parts, const Matrix& queries,
                     const VectorSearchOptions& options)
    : index_(index),
      context_(context),
      parts_(parts),
      matrix_(queries),
      options_(options),
      sigmas_(options.exact
                  ? ErrorSigmas(1)
                  : ErrorSigmas(options.recall.value_or(index.target_recall))),
      plans_(parts.size()),
      candidates_(index.crew == nullptr ? 1 : index.crew->workers()) {
  for (const IndexPart& part : parts) live_rows_ += part.live_rows();
  k_ = std::min(options.k, std::max<int64_t>(live_rows_, 1));
  queries_.reserve(queries.rows());
  for (int64_t i = 0; i < queries.rows(); ++i) {
    queries_.emplace_back(queries.row(i));
  }
}

void SearchRun::Restrict(const RowSet& matching) {
  matching_ = matching.Bits();
  matched_count_ = matching.size();
}

absl::StatusOr<std::vector<std::vector<ScoredId>>> SearchRun::Run() {
  std::vector<Piece> wholes;
  wholes.reserve(parts_.size());
  for (uint32_t p = 0; p < parts_.size(); ++p) {
    QUERN_RETURN_IF_ERROR(PlanPart(p));
    const PartPlan& plan = plans_[p];
    if (plan.way == Way::kNone) continue;
    wholes.push_back({.way = plan.way,
                      .part = p,
                      .queries = queries_.size(),
                      .end = plan.way == Way::kList
                                 ? static_cast<int64_t>(plan.rows.size())
                                 : parts_[p].rows});
  }
  const auto by_bits = [this](const Piece& whole) {
    return whole.way == Way::kScan && UsesBinaryCodes(whole.part);
  };
  // The more is found before them, the fewer rows of theirs are compared.
  const auto first_by_bits =
      std::stable_partition(wholes.begin(), wholes.end(), std::not_fn(by_bits));
  if (first_by_bits != wholes.end()) {
    for (EncodedQuery& query : queries_) {
      query.AddBinary(*index_.coder);
    }
  }
  QUERN_RETURN_IF_ERROR(DoAll(wholes));
  if (!short_.empty()) {
    const std::vector<Piece> rest = std::exchange(short_, {});
    QUERN_RETURN_IF_ERROR(DoAll(rest));
  }
  return TakeAll();
}

// --- the plan ---

SearchedPart SearchRun::Searched(uint32_t p) const {
  return {.part = parts_[p],
          .number = p,
          .metric = index_.metric,
          .matching = matching_.has_value() ? &*matching_ : nullptr,
          .sigmas = sigmas_};
}

// The share of a part's rows that may be returned, as far as is known.
double SearchRun::WantedShare(const IndexPart& part) const {
  const double live = static_cast<double>(part.live_rows()) /
                      static_cast<double>(std::max<int64_t>(part.rows, 1));
  if (!matching_.has_value()) return live;
  return live * static_cast<double>(matched_count_) /
         static_cast<double>(std::max<int64_t>(live_rows_, 1));
}

// Whether a part's rows have binary codes, and what those rule out may go.
bool SearchRun::UsesBinaryCodes(uint32_t p) const {
  return index_.coder != nullptr && !sure() && parts_[p].has_binary_codes() &&
         parts_[p].rows > kTileRows;
}

// Operating points are for 10 results; more take a wider search.
int64_t SearchRun::WidthFor(uint32_t effort) const {
  return effort + 2 * std::max<int64_t>(k_ - kPointsOfK, 0);
}

int64_t SearchRun::ProbesFor(const IvfPq& ivf,
                             const OperatingPoint& point) const {
  const double more = std::max(1.0, static_cast<double>(k_) / (4 * kPointsOfK));
  return std::min(ivf.lists(),
                  static_cast<int64_t>(std::ceil(point.effort * more)));
}

absl::Status SearchRun::PlanPart(uint32_t p) {
  const IndexPart& part = parts_[p];
  PartPlan& plan = plans_[p];
  if (part.live_rows() == 0 || (matching_.has_value() && matched_count_ == 0)) {
    return absl::OkStatus();
  }
  if (part.segment != nullptr && !sure()) {
    plan.point = part.segment->PointFor(options_.recall);
  }
  const double share = WantedShare(part);
  plan.wanted_rows = static_cast<int64_t>(Product(part.rows, share));
  QUERN_ASSIGN_OR_RETURN(const bool done, AskDevice(p, share));
  if (done) return absl::OkStatus();
  if (plan.point == nullptr || k_ >= plan.wanted_rows) {
    PlanScan(p);
  } else if (part.segment->ivf() != nullptr) {
    PlanLists(p, share);
  } else {
    PlanGraph(p, share);
  }
  return absl::OkStatus();
}

void SearchRun::PlanScan(uint32_t p) {
  const IndexPart& part = parts_[p];
  PartPlan& plan = plans_[p];
  plan.way = Way::kScan;
  // Few of many: look them up instead of passing by all.
  const int64_t gain = UsesBinaryCodes(p) ? kGainOfBits : 2 * kSequentialGain;
  if (matching_.has_value() && part.segment != nullptr &&
      matched_count_ * gain < part.rows) {
    plan.way = Way::kList;
    plan.rows = ListRows(part);
  }
}

void SearchRun::PlanGraph(uint32_t p, double share) {
  const IndexPart& part = parts_[p];
  PartPlan& plan = plans_[p];
  plan.scan_rows = part.rows / kSequentialGain;
  if (matching_.has_value()) {
    plan.scan_rows = std::min(plan.wanted_rows, plan.scan_rows);
  }
  plan.effort = static_cast<int64_t>(
      std::ceil(static_cast<double>(WidthFor(plan.point->effort)) / share));
  plan.way = Way::kGraph;
  if (CostOfWalk(plan.effort) > static_cast<double>(plan.scan_rows)) {
    PlanScan(p);
  }
}

void SearchRun::PlanLists(uint32_t p, double share) {
  const IndexPart& part = parts_[p];
  PartPlan& plan = plans_[p];
  plan.effort = ProbesFor(*part.segment->ivf(), *plan.point);
  // Lists are not looked through for matches: more candidates make up for it.
  plan.depth = static_cast<int64_t>(
      std::ceil(static_cast<double>(plan.point->depth) *
                std::max(1.0, static_cast<double>(k_) / kPointsOfK) / share));
  plan.way = Way::kLists;
  if (plan.depth > plan.wanted_rows || plan.depth > part.rows / 8) PlanScan(p);
}

// The rows of a segment that match and live.
std::vector<uint32_t> SearchRun::ListRows(const IndexPart& part) const {
  std::vector<uint32_t> rows;
  const uint32_t* numbers = part.segment->row_numbers();
  const uint32_t* const end = numbers + part.rows;
  const uint32_t* at = numbers;
  matching_->ForEachBetween(numbers[0], end[-1], [&](uint32_t number) {
    at = std::lower_bound(at, end, number);
    const auto row = static_cast<uint32_t>(at - numbers);
    if (*at == number && !part.IsDead(row)) rows.push_back(row);
  });
  return rows;
}

// Has a part searched on its device; false: the processor is to do it.
absl::StatusOr<bool> SearchRun::AskDevice(uint32_t p, double share) {
  const IndexPart& part = parts_[p];
  if (part.device == nullptr || !part.device->status().ok()) return false;
  DeviceSearchOptions options{
      .k = k_, .lists = part.device->shape().lists, .share = share};
  if (options.lists > 0 && plans_[p].point != nullptr) {
    options.lists = ProbesFor(*part.segment->ivf(), *plans_[p].point);
  }
  if (!DeviceCanSearch(*part.device, options)) return false;
  const SearchedPart searched = Searched(p);
  const absl::Span<Candidates> candidates = CandidatesOf(0);
  const absl::StatusOr<std::vector<size_t>> left =
      SearchDevice(context_, searched, queries_, options, candidates);
  if (absl::IsResourceExhausted(left.status()) ||
      absl::IsUnavailable(left.status())) {
    device_trouble_ = std::string(left.status().message());
    return false;
  }
  QUERN_RETURN_IF_ERROR(left.status());
  const std::string where =
      options.lists == part.device->shape().lists
          ? ""
          : absl::StrFormat("%d of %d lists of ", options.lists,
                            part.device->shape().lists);
  plans_[p].device = absl::StrFormat("Compared %s%d vectors on %s. ", where,
                                     part.rows, part.device->device());
  for (const size_t q : *left) {
    short_.push_back({.way = Way::kScan,
                      .part = p,
                      .first_query = q,
                      .queries = 1,
                      .end = part.rows});
  }
  return true;
}

// --- pieces ---

// That are read of each row that is compared, by estimate.
double SearchRun::RowBytesOf(uint32_t p) const {
  const IndexPart& part = parts_[p];
  return static_cast<double>(
      part.segment != nullptr
          ? part.segment->codes().row_bytes
          : RowBytes(VectorStorage::kFp32, matrix_.columns()));
}

double SearchRun::CostOf(const Piece& piece) const {
  const PartPlan& plan = plans_[piece.part];
  const double row_bytes = RowBytesOf(piece.part);
  const auto queries = static_cast<double>(piece.queries);
  switch (piece.way) {
    case Way::kNone:
      return 0;
    case Way::kScan:
      if (UsesBinaryCodes(piece.part)) {
        return Product(piece.end - piece.begin, kCostOfBits) *
               static_cast<double>(index_.coder->block_bytes()) /
               kBinaryBlockRows * queries;
      }
      return Product(piece.end - piece.begin, row_bytes) *
             (1 + kCachedCost * (queries - 1));
    case Way::kList:
      return Product(piece.end - piece.begin, row_bytes) * queries;
    case Way::kGraph:
      return CostOfWalk(plan.effort) * row_bytes * queries;
    case Way::kLists: {
      // Four bits for each two values.
      const double code_bytes = static_cast<double>(matrix_.columns()) / 4;
      const double share =
          static_cast<double>(plan.effort) /
          static_cast<double>(parts_[piece.part].segment->ivf()->lists());
      return (Product(parts_[piece.part].rows, share * code_bytes) +
              Product(plan.depth, row_bytes)) *
             queries;
    }
  }
  return 0;
}

void SearchRun::Divide(const Piece& whole, double piece_bytes,
                       std::vector<Piece>* pieces) const {
  const double count = std::max(1.0, std::ceil(CostOf(whole) / piece_bytes));
  if (whole.way == Way::kScan || whole.way == Way::kList) {
    const auto rows = static_cast<int64_t>(
        std::ceil(static_cast<double>(whole.end - whole.begin) /
                  (count * kTileRows)) *
        kTileRows);
    for (int64_t begin = whole.begin; begin < whole.end; begin += rows) {
      Piece& piece = pieces->emplace_back(whole);
      piece.begin = begin;
      piece.end = std::min(whole.end, begin + rows);
    }
    return;
  }
  const auto queries = static_cast<size_t>(
      std::ceil(static_cast<double>(whole.queries) / count));
  const size_t end = whole.first_query + whole.queries;
  for (size_t first = whole.first_query; first < end; first += queries) {
    Piece& piece = pieces->emplace_back(whole);
    piece.first_query = first;
    piece.queries = std::min(queries, end - first);
  }
}

absl::Status SearchRun::DoAll(const std::vector<Piece>& wholes) {
  double cost = 0;
  for (const Piece& whole : wholes) cost += CostOf(whole);
  const auto least = static_cast<double>(index_.min_crew_bytes);
  const bool alone = index_.crew == nullptr || cost <= 0 || cost < least;
  std::vector<Piece> pieces;
  if (alone) {
    pieces = wholes;
  } else {
    const double piece_bytes =
        std::max(cost / (kPiecesPerWorker * index_.crew->workers()),
                 least * kSmallestPiece);
    for (const Piece& whole : wholes) Divide(whole, piece_bytes, &pieces);
  }
  if (alone || pieces.size() == 1) {
    for (Piece& piece : pieces) QUERN_RETURN_IF_ERROR(Do(piece, 0));
  } else {
    QUERN_RETURN_IF_ERROR(index_.crew->Run(
        static_cast<int64_t>(pieces.size()), [&](int64_t i, int worker) {
          return Guard(kLibrary, [&]() -> absl::Status {
            QUERN_RETURN_IF_ERROR(context_.Check(kEnd));
            return Do(pieces[i], worker);
          });
        }));
  }
  for (const Piece& piece : pieces) Note(piece);
  return absl::OkStatus();
}

// What came of a piece: its part's account, and what is left to do.
void SearchRun::Note(const Piece& piece) {
  PartPlan& plan = plans_[piece.part];
  plan.widest = std::max(plan.widest, piece.widest);
  if (piece.short_of.empty()) return;
  if (!plan.came_short && matching_.has_value()) {
    plan.rows = ListRows(parts_[piece.part]);
  }
  plan.came_short = true;
  for (const size_t q : piece.short_of) {
    Piece& rest = short_.emplace_back();
    rest.way = matching_.has_value() ? Way::kList : Way::kScan;
    rest.part = piece.part;
    rest.first_query = q;
    rest.queries = 1;
    rest.end = matching_.has_value() ? static_cast<int64_t>(plan.rows.size())
                                     : parts_[piece.part].rows;
  }
}

absl::Span<Candidates> SearchRun::CandidatesOf(int worker) {
  std::vector<Candidates>& candidates = candidates_[worker];
  if (candidates.empty()) {
    candidates.reserve(queries_.size());
    for (size_t q = 0; q < queries_.size(); ++q) {
      candidates.emplace_back(k_, parts_);
    }
  }
  return absl::MakeSpan(candidates);
}

absl::Status SearchRun::Do(Piece& piece, int worker) {
  const SearchedPart searched = Searched(piece.part);
  const absl::Span<Candidates> candidates = CandidatesOf(worker);
  switch (piece.way) {
    case Way::kNone:
      return absl::OkStatus();
    case Way::kScan:
      return ScanPart(context_, searched,
                      absl::MakeConstSpan(queries_).subspan(piece.first_query,
                                                            piece.queries),
                      piece.begin, piece.end,
                      candidates.subspan(piece.first_query, piece.queries));
    case Way::kList: {
      const auto rows = absl::MakeConstSpan(plans_[piece.part].rows)
                            .subspan(piece.begin, piece.end - piece.begin);
      for (size_t i = 0; i < piece.queries; ++i) {
        const size_t q = piece.first_query + i;
        QUERN_RETURN_IF_ERROR(
            ScanRows(context_, searched, queries_[q], rows, candidates[q]));
      }
      return absl::OkStatus();
    }
    case Way::kGraph:
      return WalkGraph(piece, candidates);
    case Way::kLists:
      return ProbeLists(piece, candidates);
  }
  return absl::OkStatus();
}

absl::Status SearchRun::WalkGraph(Piece& piece,
                                  absl::Span<Candidates> candidates) const {
  thread_local std::vector<ScoredRow> found;
  const SearchedPart searched = Searched(piece.part);
  const PartPlan& plan = plans_[piece.part];
  const int64_t needed = WidthFor(plan.point->effort);
  for (size_t i = 0; i < piece.queries; ++i) {
    const size_t q = piece.first_query + i;
    int64_t wide = plan.effort;
    while (true) {
      QUERN_RETURN_IF_ERROR(
          SearchGraph(context_, searched, queries_[q], wide, &found));
      const auto count = static_cast<int64_t>(found.size());
      // Where matches lie far from the query a beam holds fewer of them.
      if (2 * count >= needed && count >= std::min(k_, plan.wanted_rows)) {
        AddFound(searched, queries_[q], found, candidates[q]);
        break;
      }
      wide *= 2;
      if (CostOfWalk(wide) > static_cast<double>(plan.scan_rows)) {
        piece.short_of.push_back(q);
        break;
      }
    }
    piece.widest = std::max(piece.widest, wide);
  }
  return absl::OkStatus();
}

absl::Status SearchRun::ProbeLists(Piece& piece,
                                   absl::Span<Candidates> candidates) const {
  const SearchedPart searched = Searched(piece.part);
  const PartPlan& plan = plans_[piece.part];
  const MatrixView queries{
      .data = matrix_.row(static_cast<int64_t>(piece.first_query)).data(),
      .rows = static_cast<int64_t>(piece.queries),
      .columns = matrix_.columns()};
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::vector<uint32_t>> lists,
                         searched.part.segment->ivf()->Search(
                             queries, plan.effort, plan.depth,
                             [this] { return context_.Check(kEnd); }));
  const int64_t needed =
      matching_.has_value()
          ? std::min<int64_t>(plan.point->depth / 2, plan.wanted_rows)
          : k_;
  for (size_t i = 0; i < piece.queries; ++i) {
    const size_t q = piece.first_query + i;
    const std::vector<uint32_t> wanted = WantedRows(searched, lists[i]);
    if (static_cast<int64_t>(wanted.size()) <
        std::max(std::min(k_, plan.wanted_rows), needed)) {
      piece.short_of.push_back(q);
      continue;
    }
    QUERN_RETURN_IF_ERROR(
        ScanRows(context_, searched, queries_[q], wanted, candidates[q]));
  }
  return absl::OkStatus();
}

// --- the results ---

absl::StatusOr<std::vector<std::vector<ScoredId>>> SearchRun::TakeAll() {
  const absl::Span<Candidates> candidates = CandidatesOf(0);
  std::vector<std::vector<ScoredId>> results(queries_.size());
  const auto take = [&](size_t q) -> absl::Status {
    QUERN_RETURN_IF_ERROR(context_.Check("reading exact vectors"));
    for (size_t w = 1; w < candidates_.size(); ++w) {
      if (!candidates_[w].empty()) candidates[q].Merge(candidates_[w][q]);
    }
    QUERN_ASSIGN_OR_RETURN(
        results[q],
        candidates[q].Take(queries_[q], index_.metric,
                           {*index_.reader, index_.cache}, sigmas_));
    return absl::OkStatus();
  };
  const bool reads =
      std::any_of(parts_.begin(), parts_.end(), [](const IndexPart& part) {
        return part.segment != nullptr &&
               part.segment->codes().storage != VectorStorage::kFp32;
      });
  if (index_.crew == nullptr || !reads || queries_.size() <= kTakenTogether) {
    for (size_t q = 0; q < queries_.size(); ++q) {
      QUERN_RETURN_IF_ERROR(take(q));
    }
    return results;
  }
  const size_t turns = (queries_.size() + kTakenTogether - 1) / kTakenTogether;
  QUERN_RETURN_IF_ERROR(
      index_.crew->Run(static_cast<int64_t>(turns), [&](int64_t turn, int) {
        return Guard(kLibrary, [&]() -> absl::Status {
          const size_t first = static_cast<size_t>(turn) * kTakenTogether;
          const size_t end = std::min(queries_.size(), first + kTakenTogether);
          for (size_t q = first; q < end; ++q) {
            QUERN_RETURN_IF_ERROR(take(q));
          }
          return absl::OkStatus();
        });
      }));
  return results;
}

std::string SearchRun::Explain() const {
  std::string text;
  if (matching_.has_value()) {
    absl::StrAppend(&text, "The filter matches ", matched_count_, " of ",
                    live_rows_, " items. ");
  }
  int64_t scanned = 0;
  int64_t coded = 0;
  int64_t listed = 0;
  std::string steps;
  for (size_t p = 0; p < plans_.size(); ++p) {
    const PartPlan& plan = plans_[p];
    steps += plan.device;
    if (plan.way == Way::kScan) {
      (UsesBinaryCodes(static_cast<uint32_t>(p)) ? coded : scanned) +=
          parts_[p].rows;
    }
    if (plan.way == Way::kList) {
      listed += static_cast<int64_t>(plan.rows.size());
    }
    if (plan.way == Way::kGraph) {
      absl::StrAppendFormat(&steps,
                            "Searched a graph of %d vectors with a beam of %d "
                            "(recall@10 %.3f in calibration). ",
                            parts_[p].rows, plan.widest, plan.point->recall);
    }
    if (plan.way == Way::kLists) {
      absl::StrAppendFormat(
          &steps,
          "Probed %d of %d lists of %d vectors and compared the codes of %d "
          "(recall@10 %.3f in calibration). ",
          plan.effort, parts_[p].segment->ivf()->lists(), parts_[p].rows,
          plan.depth, plan.point->recall);
    }
    if (plan.came_short) {
      steps += "Too few of what that found match: compared one by one. ";
    }
  }
  if (scanned > 0) {
    absl::StrAppend(&text, "Compared ", scanned, " vectors one by one. ");
  }
  if (coded > 0) {
    absl::StrAppend(&text, "Compared the binary codes of ", coded,
                    " vectors, then the nearest. ");
  }
  if (listed > 0) {
    absl::StrAppend(&text, "Compared the ", listed,
                    " matching vectors of large segments one by one. ");
  }
  text += steps;
  if (text.empty()) text = "The collection is empty. ";
  text.pop_back();
  return text;
}

}  // namespace quern
