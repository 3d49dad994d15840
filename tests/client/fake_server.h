#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/ext/health_check_service_server_builder_option.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"

#include "quern/v1/collections.grpc.pb.h"
#include "quern/v1/embedding.grpc.pb.h"
#include "quern/v1/grounding.grpc.pb.h"
#include "quern/v1/items.grpc.pb.h"
#include "quern/v1/models.grpc.pb.h"
#include "quern/v1/retrieval.grpc.pb.h"

namespace quern {

// A server in this process that works as quernd does, in memory and by brute
// force. Its model counts words: a "picture" is a file of words, and fits a
// text with the same words. Bytes that begin with "BROKEN" cannot be decoded.
// To its grounding the words of a picture stand side by side, each 10 by 20
// pixels, and those of a video follow each other, each for two seconds. Without
// relations only the first word of a phrase counts. A search for parts finds
// one of each item: the middle of the lower half of 40 x 20 pixels, or 0.5 to
// 1.5 of 2 seconds.
// Thread-safe.
class FakeServer {
 public:
  static constexpr int kDimension = 64;

  FakeServer() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(&collections_);
    builder.RegisterService(&items_);
    builder.RegisterService(&embedding_);
    builder.RegisterService(&grounding_);
    builder.RegisterService(&retrieval_);
    builder.RegisterService(&models_);
    server_ = builder.BuildAndStart();
  }

  ~FakeServer() { server_->Shutdown(absl::ToChronoTime(absl::Now())); }

  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  void SetServing(bool serving) {
    server_->GetHealthCheckService()->SetServingStatus(serving);
  }

  // The next `count` searches fail with `status`.
  void FailSearches(int count, const grpc::Status& status) {
    absl::MutexLock lock(&state_.mutex);
    state_.search_failures = count;
    state_.search_failure = status;
  }

  // An Upsert stream ends with UNAVAILABLE after this many items.
  void BreakUpsertAfter(int64_t items) {
    absl::MutexLock lock(&state_.mutex);
    state_.break_upsert_after = items;
  }

  // Upserts are read but not answered until the stream is cancelled.
  void StallUpserts() {
    absl::MutexLock lock(&state_.mutex);
    state_.stall_upserts = true;
  }

  void AddCollection(const std::string& name) {
    absl::MutexLock lock(&state_.mutex);
    state_.collections[name].config = MakeCollection(name, kModel);
  }

  // Ids in byte order.
  std::vector<std::string> ItemIds(const std::string& collection) {
    absl::MutexLock lock(&state_.mutex);
    std::vector<std::string> ids;
    for (const auto& [id, item] : state_.collections[collection].items) {
      ids.push_back(id);
    }
    return ids;
  }

  v1::Item Item(const std::string& collection, const std::string& id) {
    absl::MutexLock lock(&state_.mutex);
    return state_.collections[collection].items[id];
  }

  int64_t upserts() {
    absl::MutexLock lock(&state_.mutex);
    return state_.upserts;
  }

  int64_t searches() {
    absl::MutexLock lock(&state_.mutex);
    return state_.searches;
  }

  int64_t groundings() {
    absl::MutexLock lock(&state_.mutex);
    return state_.groundings;
  }

  // Most inputs seen in one Embed call.
  int max_embed_inputs() {
    absl::MutexLock lock(&state_.mutex);
    return state_.max_embed_inputs;
  }

 private:
  static constexpr char kModel[] = "word-count";

  struct StoredCollection {
    v1::Collection config;
    std::map<std::string, v1::Item> items;
  };

  struct State {
    absl::Mutex mutex;
    std::map<std::string, StoredCollection> collections;
    // Tars by (collection, name); each begins with "tar".
    std::map<std::pair<std::string, std::string>, std::string> snapshots;
    v1::Job job;  // The latest.
    int search_failures = 0;
    grpc::Status search_failure;
    int64_t break_upsert_after = -1;
    bool stall_upserts = false;
    int64_t upserts = 0;
    int64_t searches = 0;
    int64_t groundings = 0;
    int max_embed_inputs = 0;
    std::map<std::string, v1::Model> models = {{kModel, MakeModel(kModel)}};
    std::string default_model = kModel;
  };

  static v1::Model MakeModel(const std::string& name) {
    v1::Model model;
    model.set_name(name);
    model.set_version("1");
    model.set_dimension(kDimension);
    model.set_state(v1::Model::STATE_READY);
    model.set_max_tokens(16);
    return model;
  }

  static v1::Collection MakeCollection(const std::string& name,
                                       const std::string& model) {
    v1::Collection collection;
    collection.set_name(name);
    collection.set_model(model);
    collection.set_dimension(kDimension);
    return collection;
  }

  static grpc::Status NoCollection(const std::string& name) {
    return {grpc::StatusCode::NOT_FOUND,
            absl::StrCat("there is no collection \"", name, "\"")};
  }

  // The words' counts, hashed into kDimension places and L2-normalised.
  static v1::Vector Encode(const std::string& text) {
    std::vector<float> counts(kDimension, 0);
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      uint32_t hash = 2166136261;
      for (const char c : word) {
        hash = (hash ^ static_cast<uint8_t>(c)) * 16777619;
      }
      counts[hash % kDimension] += 1;
    }
    float norm = 0;
    for (const float count : counts) norm += count * count;
    v1::Vector vector;
    for (const float count : counts) {
      vector.add_values(norm > 0 ? count / std::sqrt(norm) : 0);
    }
    return vector;
  }

  static grpc::Status EncodePicture(const std::string& bytes,
                                    v1::Vector& vector) {
    if (bytes.rfind("BROKEN", 0) == 0) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "image: not a picture"};
    }
    vector = Encode(bytes);
    return grpc::Status::OK;
  }

  static void SetStatus(const grpc::Status& status, google::rpc::Status& out) {
    out.set_code(status.error_code());
    out.set_message(status.error_message());
  }

  class CollectionsService final : public v1::Collections::Service {
   public:
    explicit CollectionsService(State* state) : state_(*state) {}

    grpc::Status Create(grpc::ServerContext*,
                        const v1::CreateCollectionRequest* request,
                        v1::Collection* response) override {
      const std::string& name = request->collection().name();
      absl::MutexLock lock(&state_.mutex);
      if (state_.collections.count(name) != 0) {
        return {grpc::StatusCode::ALREADY_EXISTS,
                absl::StrCat("collection \"", name, "\" exists")};
      }
      const std::string& model = request->collection().model();
      state_.collections[name].config =
          MakeCollection(name, model.empty() ? kModel : model);
      *state_.collections[name].config.mutable_payload_fields() =
          request->collection().payload_fields();
      *response = state_.collections[name].config;
      return grpc::Status::OK;
    }

    grpc::Status Get(grpc::ServerContext*,
                     const v1::GetCollectionRequest* request,
                     v1::Collection* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found = state_.collections.find(request->name());
      if (found == state_.collections.end()) {
        return NoCollection(request->name());
      }
      Describe(found->second, *response);
      return grpc::Status::OK;
    }

    // One collection a page, so that callers have to follow the pages.
    grpc::Status List(grpc::ServerContext*,
                      const v1::ListCollectionsRequest* request,
                      v1::ListCollectionsResponse* response) override {
      absl::MutexLock lock(&state_.mutex);
      auto next = state_.collections.upper_bound(request->page_token());
      if (next == state_.collections.end()) return grpc::Status::OK;
      Describe(next->second, *response->add_collections());
      const std::string token = next->first;
      if (++next != state_.collections.end()) {
        response->set_next_page_token(token);
      }
      return grpc::Status::OK;
    }

    grpc::Status Delete(grpc::ServerContext*,
                        const v1::DeleteCollectionRequest* request,
                        v1::DeleteCollectionResponse* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found = state_.collections.find(request->name());
      if (found == state_.collections.end()) {
        return NoCollection(request->name());
      }
      response->set_deleted_item_count(
          static_cast<int64_t>(found->second.items.size()));
      state_.collections.erase(found);
      return grpc::Status::OK;
    }

    // A job that ends with the third look at it; one of "broken" fails then.
    grpc::Status Optimize(grpc::ServerContext*,
                          const v1::OptimizeCollectionRequest* request,
                          v1::Job* response) override {
      absl::MutexLock lock(&state_.mutex);
      if (state_.collections.count(request->name()) == 0) {
        return NoCollection(request->name());
      }
      state_.job.Clear();
      state_.job.set_id("job-1");
      state_.job.set_kind("optimize");
      state_.job.set_collection(request->name());
      state_.job.set_state(v1::Job::STATE_PENDING);
      *response = state_.job;
      return grpc::Status::OK;
    }

    // Likewise; the job's id is the model's name.
    grpc::Status Reindex(grpc::ServerContext*,
                         const v1::ReindexCollectionRequest* request,
                         v1::Job* response) override {
      absl::MutexLock lock(&state_.mutex);
      if (state_.collections.count(request->name()) == 0) {
        return NoCollection(request->name());
      }
      state_.job.Clear();
      state_.job.set_id(request->model());
      state_.job.set_kind("reindex");
      state_.job.set_collection(request->name());
      state_.job.set_state(v1::Job::STATE_PENDING);
      *response = state_.job;
      return grpc::Status::OK;
    }

    grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                        v1::Job* response) override {
      absl::MutexLock lock(&state_.mutex);
      v1::Job& job = state_.job;
      if (request->id() != job.id()) {
        return {grpc::StatusCode::NOT_FOUND, "there is no such job"};
      }
      job.set_progress(job.progress() + 0.25F);
      job.set_state(v1::Job::STATE_RUNNING);
      if (job.progress() == 0.75F) {
        const bool broken = job.collection() == "broken";
        job.set_state(broken ? v1::Job::STATE_FAILED
                             : v1::Job::STATE_SUCCEEDED);
        job.set_message(broken ? "the disk is full" : "");
        job.set_progress(broken ? 0.75F : 1);
      }
      *response = job;
      return grpc::Status::OK;
    }

    grpc::Status CreateSnapshot(grpc::ServerContext*,
                                const v1::CreateSnapshotRequest* request,
                                v1::Snapshot* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found = state_.collections.find(request->collection());
      if (found == state_.collections.end()) {
        return NoCollection(request->collection());
      }
      const std::string name =
          request->name().empty() ? "20261123-184501" : request->name();
      std::string tar = "tar";
      for (const auto& [id, item] : found->second.items) tar += "\n" + id;
      state_.snapshots[{request->collection(), name}] = tar;
      Describe(request->collection(), name, tar, *response);
      return grpc::Status::OK;
    }

    // One snapshot a page. One of the name "damaged" is.
    grpc::Status ListSnapshots(grpc::ServerContext*,
                               const v1::ListSnapshotsRequest* request,
                               v1::ListSnapshotsResponse* response) override {
      absl::MutexLock lock(&state_.mutex);
      size_t at = request->page_token().size();
      std::vector<v1::Snapshot> found;
      for (const auto& [key, tar] : state_.snapshots) {
        if (!request->collection().empty() &&
            key.first != request->collection()) {
          continue;
        }
        Describe(key.first, key.second, tar, found.emplace_back());
        if (key.second == "damaged") {
          found.back().clear_item_count();
          found.back().clear_size_bytes();
          found.back().clear_create_time();
          found.back().set_error("its snapshot.json is damaged");
        }
      }
      if (at < found.size()) *response->add_snapshots() = found[at++];
      if (at < found.size()) {
        response->set_next_page_token(std::string(at, 'x'));
      }
      return grpc::Status::OK;
    }

    grpc::Status DeleteSnapshot(grpc::ServerContext*,
                                const v1::DeleteSnapshotRequest* request,
                                v1::DeleteSnapshotResponse*) override {
      absl::MutexLock lock(&state_.mutex);
      return state_.snapshots.erase({request->collection(), request->name()}) >
                     0
                 ? grpc::Status::OK
                 : NoSnapshot(request->name());
    }

    grpc::Status RestoreSnapshot(grpc::ServerContext*,
                                 const v1::RestoreSnapshotRequest* request,
                                 v1::Collection* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found =
          state_.snapshots.find({request->collection(), request->name()});
      if (found == state_.snapshots.end()) return NoSnapshot(request->name());
      StoredCollection& made = state_.collections[request->new_collection()];
      made.config = MakeCollection(request->new_collection(), kModel);
      std::istringstream lines(found->second);
      std::string id;
      std::getline(lines, id);
      while (std::getline(lines, id)) made.items[id].set_id(id);
      Describe(made, *response);
      return grpc::Status::OK;
    }

    grpc::Status ExportSnapshot(
        grpc::ServerContext*, const v1::ExportSnapshotRequest* request,
        grpc::ServerWriter<v1::SnapshotChunk>* writer) override {
      std::string tar;
      {
        absl::MutexLock lock(&state_.mutex);
        tar = state_.snapshots[{request->collection(), request->name()}];
      }
      v1::SnapshotChunk chunk;
      for (size_t at = 0; at < tar.size(); at += 5) {
        chunk.set_data(tar.substr(at, 5));
        writer->Write(chunk);
      }
      return grpc::Status::OK;
    }

    grpc::Status ImportSnapshot(
        grpc::ServerContext*,
        grpc::ServerReader<v1::ImportSnapshotRequest>* reader,
        v1::Snapshot* response) override {
      v1::ImportSnapshotRequest request;
      std::string collection, name, tar;
      while (reader->Read(&request)) {
        collection += request.collection();
        name += request.name();
        tar += request.chunk().data();
      }
      if (tar.rfind("tar", 0) != 0) {
        return {grpc::StatusCode::INVALID_ARGUMENT,
                "the file is not an intact snapshot"};
      }
      absl::MutexLock lock(&state_.mutex);
      state_.snapshots[{collection, name}] = tar;
      Describe(collection, name, tar, *response);
      return grpc::Status::OK;
    }

   private:
    static grpc::Status NoSnapshot(const std::string& name) {
      return {grpc::StatusCode::NOT_FOUND,
              absl::StrCat("there is no snapshot \"", name, "\"")};
    }

    static void Describe(const std::string& collection, const std::string& name,
                         const std::string& tar, v1::Snapshot& out) {
      out.set_collection(collection);
      out.set_name(name);
      out.set_item_count(std::count(tar.begin(), tar.end(), '\n'));
      out.set_size_bytes(static_cast<int64_t>(tar.size()));
      out.mutable_create_time()->set_seconds(1'800'000'000);
    }

    static void Describe(const StoredCollection& stored, v1::Collection& out) {
      out = stored.config;
      out.mutable_status()->set_state(v1::CollectionStatus::STATE_READY);
      out.mutable_status()->set_item_count(
          static_cast<int64_t>(stored.items.size()));
    }

    State& state_;
  };

  class ItemsService final : public v1::Items::Service {
   public:
    explicit ItemsService(State* state) : state_(*state) {}

    grpc::Status Upsert(
        grpc::ServerContext* context,
        grpc::ServerReaderWriter<v1::UpsertResponse, v1::UpsertRequest>* stream)
        override {
      v1::UpsertRequest request;
      std::string collection;
      for (int64_t index = 0; stream->Read(&request); ++index) {
        if (index == 0) collection = request.collection();
        if (Stalls()) {
          while (stream->Read(&request)) {
          }
          return grpc::Status::CANCELLED;
        }
        v1::UpsertResponse response;
        response.set_index(index);
        response.set_id(request.id());
        if (!Store(collection, request, response)) {
          return {grpc::StatusCode::UNAVAILABLE, "the server goes down"};
        }
        stream->Write(response);
      }
      return context->IsCancelled() ? grpc::Status::CANCELLED
                                    : grpc::Status::OK;
    }

    // Two items a page, so that callers have to follow the pages.
    grpc::Status List(grpc::ServerContext*, const v1::ListItemsRequest* request,
                      v1::ListItemsResponse* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found = state_.collections.find(request->collection());
      if (found == state_.collections.end()) {
        return NoCollection(request->collection());
      }
      const auto& items = found->second.items;
      auto next = items.upper_bound(request->page_token());
      for (int i = 0; i < 2 && next != items.end(); ++i, ++next) {
        *response->add_items() = next->second;
      }
      if (next != items.end()) {
        response->set_next_page_token(
            response->items(response->items_size() - 1).id());
      }
      return grpc::Status::OK;
    }

   private:
    bool Stalls() {
      absl::MutexLock lock(&state_.mutex);
      return state_.stall_upserts;
    }

    // False when the stream is to break now.
    bool Store(const std::string& collection, const v1::UpsertRequest& request,
               v1::UpsertResponse& response) {
      absl::MutexLock lock(&state_.mutex);
      if (state_.break_upsert_after == 0) return false;
      if (state_.break_upsert_after > 0) --state_.break_upsert_after;
      ++state_.upserts;
      v1::Vector embedding;
      const grpc::Status status =
          EncodePicture(request.image().content(), embedding);
      SetStatus(status, *response.mutable_status());
      if (!status.ok()) return true;
      v1::Item item;
      item.set_id(request.id());
      *item.mutable_payload() = request.payload();
      item.set_media_uri(request.media_uri());
      *item.mutable_embedding() = embedding;
      auto& items = state_.collections[collection].items;
      response.set_created(items.count(request.id()) == 0);
      items[request.id()] = std::move(item);
      return true;
    }

    State& state_;
  };

  class EmbeddingService final : public v1::Embedding::Service {
   public:
    explicit EmbeddingService(State* state) : state_(*state) {}

    grpc::Status Embed(grpc::ServerContext*, const v1::EmbedRequest* request,
                       v1::EmbedResponse* response) override {
      {
        absl::MutexLock lock(&state_.mutex);
        state_.max_embed_inputs =
            std::max(state_.max_embed_inputs, request->inputs_size());
      }
      grpc::Status first_error;
      int succeeded = 0;
      for (const v1::Input& input : request->inputs()) {
        v1::EmbedResult& result = *response->add_results();
        grpc::Status status;
        if (input.has_text()) {
          *result.mutable_embedding() = Encode(input.text());
        } else {
          status = EncodePicture(input.image().content(),
                                 *result.mutable_embedding());
        }
        SetStatus(status, *result.mutable_status());
        succeeded += status.ok() ? 1 : 0;
        if (first_error.ok()) first_error = status;
      }
      response->mutable_model()->set_name(kModel);
      return succeeded == 0 ? first_error : grpc::Status::OK;
    }

   private:
    State& state_;
  };

  class GroundingService final : public v1::Grounding::Service {
   public:
    explicit GroundingService(State* state) : state_(*state) {}

    grpc::Status GroundRegions(grpc::ServerContext*,
                               const v1::GroundRegionsRequest* request,
                               v1::GroundRegionsResponse* response) override {
      Count();
      const std::string& content = request->has_item()
                                       ? request->item().id()
                                       : request->image().content();
      if (content.rfind("BROKEN", 0) == 0) {
        return {grpc::StatusCode::INVALID_ARGUMENT, "image: not a picture"};
      }
      if (request->has_item() && content.rfind("gone", 0) == 0) {
        return {grpc::StatusCode::NOT_FOUND, "there is no such item"};
      }
      const std::vector<std::string> words = Words(content);
      response->set_width(10 * static_cast<int>(words.size()));
      response->set_height(20);
      for (const std::string& phrase : request->phrases().phrases()) {
        v1::GroundedPhrase& grounded = *response->add_phrases();
        grounded.set_phrase(phrase);
        std::vector<std::string> wanted = Words(phrase);
        if (request->ignore_relations()) wanted.resize(1);
        const auto [begin, end] = Find(words, wanted);
        grounded.set_presence(begin == end ? 0.1F : 0.9F);
        if (begin == end) continue;
        const auto count = static_cast<float>(words.size());
        v1::Region& region = *grounded.add_regions();
        region.set_score(1);
        region.mutable_box()->set_left(static_cast<float>(begin) / count);
        region.mutable_box()->set_right(static_cast<float>(end) / count);
        // Crops let it see the upper half alone.
        region.mutable_box()->set_bottom(request->crop_depth() > 0 ? 0.5F : 1);
      }
      return grpc::Status::OK;
    }

    grpc::Status GroundSegments(grpc::ServerContext*,
                                const v1::GroundSegmentsRequest* request,
                                v1::GroundSegmentsResponse* response) override {
      Count();
      absl::string_view content = request->video().content();
      if (request->has_item()) {
        content = request->item().id();
        if (!absl::ConsumeSuffix(&content, ".mp4")) {
          return {grpc::StatusCode::NOT_FOUND, "there is no such item"};
        }
      }
      const std::vector<std::string> words = Words(std::string(content));
      response->mutable_duration()->set_seconds(
          2 * static_cast<int64_t>(words.size()));
      for (const std::string& sentence : request->sentences()) {
        v1::GroundedSentence& grounded = *response->add_sentences();
        grounded.set_sentence(sentence);
        const auto [begin, end] = Find(words, Words(sentence));
        for (size_t i = 0; request->include_saliency() && i < words.size();
             ++i) {
          grounded.mutable_saliency()->add_times()->set_seconds(
              2 * static_cast<int64_t>(i));
          grounded.mutable_saliency()->add_values(begin <= i && i < end ? 1.0F
                                                                        : 0.0F);
        }
        if (begin == end) continue;
        v1::Segment& segment = *grounded.add_segments();
        segment.set_score(1);
        segment.mutable_span()->mutable_start()->set_seconds(
            2 * static_cast<int64_t>(begin));
        segment.mutable_span()->mutable_end()->set_seconds(
            2 * static_cast<int64_t>(end));
      }
      return grpc::Status::OK;
    }

   private:
    static std::vector<std::string> Words(const std::string& text) {
      std::istringstream stream(text);
      return {std::istream_iterator<std::string>(stream), {}};
    }

    // Where `phrase` stands in `words`, first and past the last; equal when it
    // does not.
    static std::pair<size_t, size_t> Find(
        const std::vector<std::string>& words,
        const std::vector<std::string>& phrase) {
      const auto found =
          std::search(words.begin(), words.end(), phrase.begin(), phrase.end());
      if (found == words.end()) return {0, 0};
      const auto begin = static_cast<size_t>(found - words.begin());
      return {begin, begin + phrase.size()};
    }

    void Count() {
      absl::MutexLock lock(&state_.mutex);
      ++state_.groundings;
    }

    State& state_;
  };

  class RetrievalService final : public v1::Retrieval::Service {
   public:
    explicit RetrievalService(State* state) : state_(*state) {}

    grpc::Status Search(grpc::ServerContext*, const v1::SearchRequest* request,
                        v1::SearchResponse* response) override {
      absl::MutexLock lock(&state_.mutex);
      ++state_.searches;
      if (state_.search_failures > 0) {
        --state_.search_failures;
        return state_.search_failure;
      }
      const auto found = state_.collections.find(request->collection());
      if (found == state_.collections.end()) {
        return NoCollection(request->collection());
      }
      std::vector<float> query(kDimension, 0);
      std::set<std::string> left_out;
      for (const v1::QueryPart& part : request->query().parts()) {
        v1::Vector vector;
        if (part.has_text()) {
          vector = Encode(part.text());
        } else if (part.has_image()) {
          const grpc::Status status =
              EncodePicture(part.image().content(), vector);
          if (!status.ok()) return status;
        } else {
          vector = found->second.items[part.item_id()].embedding();
          left_out.insert(part.item_id());
        }
        for (int i = 0; i < vector.values_size(); ++i) {
          query[static_cast<size_t>(i)] += vector.values(i);
        }
      }
      for (const auto& [id, item] : found->second.items) {
        if (left_out.count(id) != 0) continue;
        float score = 0;
        for (int i = 0; i < kDimension; ++i) {
          score += query[static_cast<size_t>(i)] * item.embedding().values(i);
        }
        if (request->has_min_score() && score < request->min_score()) continue;
        v1::Hit& hit = *response->add_hits();
        *hit.mutable_item() = item;
        hit.mutable_item()->clear_embedding();
        hit.set_score(score);
        if (!AddPart(*request, hit)) response->mutable_hits()->RemoveLast();
      }
      std::stable_sort(response->mutable_hits()->begin(),
                       response->mutable_hits()->end(),
                       [](const v1::Hit& a, const v1::Hit& b) {
                         return a.score() > b.score();
                       });
      const int kept = std::min(response->hits_size(), request->page_size());
      response->mutable_hits()->DeleteSubrange(kept,
                                               response->hits_size() - kept);
      v1::SearchReport& report = *response->mutable_report();
      report.mutable_model()->set_name(kModel);
      report.set_item_count(static_cast<int64_t>(found->second.items.size()));
      v1::StageTime& stage = *report.add_stages();
      stage.set_stage("search");
      stage.mutable_duration()->set_nanos(1'500'000);
      return grpc::Status::OK;
    }

   private:
    // False where it is not there probably enough.
    static bool AddPart(const v1::SearchRequest& request, v1::Hit& hit) {
      const bool is_region = request.granularity() == v1::GRANULARITY_REGION;
      if (!is_region && request.granularity() != v1::GRANULARITY_SEGMENT) {
        return true;
      }
      hit.set_probability(hit.score() > 0 ? 0.75F : 0.125F);
      v1::Evidence& evidence = *hit.add_evidence();
      evidence.set_score(hit.score());
      evidence.set_probability(hit.probability());
      v1::PartsInfo& parts = *hit.mutable_item()->mutable_parts();
      if (is_region) {
        parts.set_width(40);
        parts.set_height(20);
        evidence.mutable_box()->set_left(0.25F);
        evidence.mutable_box()->set_top(0.5F);
        evidence.mutable_box()->set_right(0.75F);
        evidence.mutable_box()->set_bottom(1);
      } else {
        constexpr int kHalf = 500'000'000;
        parts.mutable_duration()->set_seconds(2);
        evidence.mutable_span()->mutable_start()->set_nanos(kHalf);
        evidence.mutable_span()->mutable_end()->set_seconds(1);
        evidence.mutable_span()->mutable_end()->set_nanos(kHalf);
      }
      return hit.probability() >= request.min_probability();
    }

    State& state_;
  };

  // Takes every package for a model that is called as its folder, but for
  // folders called "broken".
  class ModelsService final : public v1::Models::Service {
   public:
    explicit ModelsService(State* state) : state_(*state) {}

    grpc::Status List(grpc::ServerContext*, const v1::ListModelsRequest*,
                      v1::ListModelsResponse* response) override {
      absl::MutexLock lock(&state_.mutex);
      for (const auto& [name, model] : state_.models) {
        Describe(model, *response->add_models());
      }
      return grpc::Status::OK;
    }

    grpc::Status Get(grpc::ServerContext*, const v1::GetModelRequest* request,
                     v1::Model* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found = state_.models.find(
          request->name().empty() ? state_.default_model : request->name());
      if (found == state_.models.end()) return NoModel(request->name());
      Describe(found->second, *response);
      return grpc::Status::OK;
    }

    grpc::Status Load(grpc::ServerContext*, const v1::LoadModelRequest* request,
                      v1::Model* response) override {
      const std::string& path = request->path();
      const std::string name = path.substr(path.rfind('/') + 1);
      if (name == "broken") {
        return {grpc::StatusCode::FAILED_PRECONDITION,
                "file \"image.ts\" is missing: export the package again"};
      }
      absl::MutexLock lock(&state_.mutex);
      v1::Model& model = state_.models[name] = MakeModel(name);
      model.set_description(path);
      model.set_device(request->device());
      model.set_precision(request->precision());
      Describe(model, *response);
      return grpc::Status::OK;
    }

    grpc::Status Unload(grpc::ServerContext*,
                        const v1::UnloadModelRequest* request,
                        v1::UnloadModelResponse*) override {
      absl::MutexLock lock(&state_.mutex);
      if (request->name() == state_.default_model && !request->force()) {
        return {grpc::StatusCode::FAILED_PRECONDITION,
                "it is the default model"};
      }
      return state_.models.erase(request->name()) == 0
                 ? NoModel(request->name())
                 : grpc::Status::OK;
    }

    grpc::Status SetDefault(grpc::ServerContext*,
                            const v1::SetDefaultModelRequest* request,
                            v1::Model* response) override {
      absl::MutexLock lock(&state_.mutex);
      const auto found = state_.models.find(request->name());
      if (found == state_.models.end()) return NoModel(request->name());
      state_.default_model = request->name();
      Describe(found->second, *response);
      return grpc::Status::OK;
    }

   private:
    static grpc::Status NoModel(const std::string& name) {
      return {grpc::StatusCode::NOT_FOUND,
              absl::StrCat("there is no model \"", name, "\"")};
    }

    // The caller holds the lock.
    void Describe(const v1::Model& model,
                  v1::Model& out) const ABSL_NO_THREAD_SAFETY_ANALYSIS {
      out = model;
      out.set_is_default(model.name() == state_.default_model);
    }

    State& state_;
  };

  State state_;
  CollectionsService collections_{&state_};
  ItemsService items_{&state_};
  EmbeddingService embedding_{&state_};
  GroundingService grounding_{&state_};
  RetrievalService retrieval_{&state_};
  ModelsService models_{&state_};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace quern
