#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpc/grpc.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

#include "engine/base/status_macros.h"
#include "engine/base/thread_priority.h"
#include "quern/v1/categories.pb.h"
#include "server/address.h"
#include "server/collections_service.h"
#include "server/config.h"
#include "server/embedding_service.h"
#include "server/grounding_service.h"
#include "server/items_service.h"
#include "server/log.h"
#include "server/models_service.h"
#include "server/retrieval_service.h"
#include "server/scoring_service.h"
#include "server/version.h"

namespace quern {
namespace {

// What calls that are not ours, such as a Watch of the health service, get
// after the others have ended.
constexpr absl::Duration kForeignCallGrace = absl::Milliseconds(200);
// A connection without calls is asked for a sign of life this often; a client
// may ask as often as the second.
constexpr int kKeepaliveMs = 120'000;
constexpr int kMinPingIntervalMs = 10'000;

// Of the longest message, what media may take in a request to a scorer.
constexpr double kMediaShare = 0.75;

EngineLimits Limits(const v1::Config& config) {
  return {.max_page_size = config.limits().max_page_size(),
          .max_payload_bytes = config.limits().max_payload_bytes(),
          .max_answer_bytes = config.server().max_message_bytes()};
}

// Zero: one per `cores`.
int ThreadCount(int threads, unsigned cores) {
  if (threads > 0) return threads;
  return static_cast<int>(
      std::max(1U, std::thread::hardware_concurrency() / cores));
}

// Calls that may run on gRPC's threads, which it has for its callbacks (one per
// two cores, 2 to 16): one is left for what arrives.
int SlotCount() {
  constexpr unsigned kFewest = 2;
  constexpr unsigned kMost = 16;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2,
                                     kFewest, kMost)) -
         1;
}

// Folders below which Models.Load may look: as configured, or those that the
// packages loaded at the start lie in.
std::vector<std::string> ModelRoots(const v1::ModelsConfig& config) {
  if (config.roots_size() > 0) {
    return {config.roots().begin(), config.roots().end()};
  }
  std::vector<std::string> roots;
  for (const std::string& path : config.paths()) {
    roots.push_back(std::filesystem::path(path) / "..");
  }
  return roots;
}

void LogReplica(const std::string& collection, const std::string& snapshot,
                const absl::Status& status) {
  std::vector<LogField> fields = {{"collection", collection},
                                  {"snapshot", snapshot}};
  if (!status.ok()) fields.emplace_back("error", status.ToString());
  Log(status.ok() ? LogLevel::kInfo : LogLevel::kError,
      status.ok() ? "replica" : "replica_failed", fields);
}

void LogFailed(const Catalog& catalog) {
  for (const v1::Collection& collection :
       catalog.List("", std::numeric_limits<int64_t>::max())) {
    if (collection.status().state() != v1::CollectionStatus::STATE_FAILED) {
      continue;
    }
    Log(LogLevel::kError, "collection_failed",
        {{"collection", collection.name()},
         {"error", collection.status().message()}});
  }
}

// A service of which this version has no method.
std::unique_ptr<RpcService> EmptyService(
    const google::protobuf::Descriptor* message, const std::string& name,
    const RpcEnvironment* environment) {
  return std::make_unique<RpcService>(message->file()->FindServiceByName(name),
                                      environment);
}

// Both plugins are global, and must be asked for before a builder is made.
void EnableGrpcPlugins() {
  static const bool enabled = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(enabled);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Create(const v1::Config& config,
                                                       Backends backends) {
  std::unique_ptr<Server> server(new Server(config, std::move(backends)));
  QUERN_RETURN_IF_ERROR(server->Start());
  return server;
}

Server::Server(const v1::Config& config, Backends backends)
    : config_(config),
      drain_timeout_(DurationOf(config.server().drain_timeout())),
      backends_(std::move(backends)),
      slots_(std::make_shared<CallSlots>(SlotCount())) {}

Server::~Server() {
  if (grpc_server_ != nullptr) Shutdown();
}

absl::Status Server::Start() {
  if (!IsScorer()) QUERN_RETURN_IF_ERROR(OpenCollections());
  StartPool();
  metrics_ = std::make_unique<Metrics>([this] { return ReadGauges(); });
  scorer_ = std::make_unique<FeatureScorer>(kVersion, backends_.models.get());
  if (!IsScorer()) QUERN_RETURN_IF_ERROR(StartEngine());
  if (!config_.metrics().address().empty()) {
    QUERN_ASSIGN_OR_RETURN(metrics_address_,
                           metrics_->Serve(config_.metrics().address()));
  }
  environment_ = {.clock = backends_.clock.get(),
                  .pool = pool_.get(),
                  .streams = streams_.get(),
                  .slots = slots_,
                  .metrics = metrics_.get(),
                  .calls = &calls_,
                  .max_message_bytes = config_.server().max_message_bytes(),
                  .stall_timeout = backends_.stall_timeout};
  AddServices();
  return Listen();
}

bool Server::IsScorer() const {
  return config_.server().role() == v1::ServerConfig::ROLE_SCORER;
}

absl::Status Server::OpenCollections() {
  QUERN_ASSIGN_OR_RETURN(
      catalog_,
      Catalog::Open({.path = config_.storage().path(),
                     .max_collections = config_.limits().max_collections(),
                     .factories = backends_.collections,
                     .clock = backends_.clock.get(),
                     .replica_of = config_.storage().replica_of()}));
  LogFailed(*catalog_);
  QUERN_RETURN_IF_ERROR(OpenSnapshots());
  sweep_ = std::make_unique<ExpirySweep>(catalog_.get());
  return absl::OkStatus();
}

void Server::StartPool() {
  pool_ = std::make_unique<ThreadPool>(ThreadPoolOptions{
      .name = "server.threads",
      .threads = ThreadCount(config_.server().threads(), 1),
      .max_queue =
          static_cast<size_t>(config_.server().max_queued_requests())});
  // They wait for the disk, too, and those that wait share a sync.
  streams_ = std::make_unique<ThreadPool>(ThreadPoolOptions{
      .name = "server.streams",
      .threads = 2 * ThreadCount(config_.server().threads(), 1),
      .max_queue = static_cast<size_t>(config_.server().max_queued_requests()),
      .niceness = kBulkNiceness,
      .leaves_first_core = true});
}

absl::Status Server::StartEngine() {
  embedder_ = std::make_unique<Embedder>(
      EmbedderOptions{
          .max_text_bytes = config_.limits().max_text_bytes(),
          .max_image_bytes = config_.media().max_image_bytes(),
          .decode_threads = ThreadCount(config_.media().decode_threads(), 2),
          .text_cache_bytes = config_.cache().text_bytes(),
          .media_roots = {config_.media().roots().begin(),
                          config_.media().roots().end()}},
      backends_.decoder.get(), backends_.videos.get(), pool_.get());
  const v1::ScoringConfig& scoring = config_.scoring();
  if (scoring.remote_size() > 0) {
    QUERN_ASSIGN_OR_RETURN(
        remote_,
        RemoteScorer::Create(
            {.endpoints = {scoring.remote().begin(), scoring.remote().end()},
             .max_message_bytes = config_.server().max_message_bytes(),
             .observe = [this](const RemoteCall& call) {
               metrics_->RecordScoring(call.endpoint, call.code, call.duration,
                                       call.is_hedge);
             }}));
  }
  stage_ = std::make_unique<FineStage>(
      FineStageOptions{.threads = scoring.threads(),
                       .max_queue = static_cast<size_t>(scoring.max_queued()),
                       .timeout = DurationOf(scoring.timeout())},
      pool_.get());
  grounding_ = std::make_unique<FineStage>(
      FineStageOptions{.name = "grounding",
                       .niceness = kBulkNiceness,
                       .threads = ThreadCount(config_.server().threads(), 1),
                       .max_queue = static_cast<size_t>(scoring.max_queued()),
                       .timeout = DurationOf(scoring.timeout())},
      pool_.get());
  engine_ = std::make_unique<Engine>(
      Limits(config_), embedder_.get(), backends_.models.get(), catalog_.get(),
      EngineScoring{
          .stage = stage_.get(),
          .grounding = grounding_.get(),
          .remote = remote_.get(),
          .max_media_bytes = static_cast<int64_t>(
              kMediaShare *
              static_cast<double>(config_.server().max_message_bytes()))});
  jobs_ = std::make_unique<Jobs>(JobsOptions{.clock = backends_.clock.get()});
  return absl::OkStatus();
}

absl::Status Server::OpenSnapshots() {
  const std::string& replica_of = config_.storage().replica_of();
  const bool is_replica = !replica_of.empty();
  if (is_replica) {
    QUERN_ASSIGN_OR_RETURN(replica_,
                           Replica::Start({.path = replica_of,
                                           .factories = backends_.collections,
                                           .clock = backends_.clock.get(),
                                           .on_open = LogReplica},
                                          catalog_.get()));
  }
  QUERN_ASSIGN_OR_RETURN(
      snapshots_,
      Snapshots::Open(
          {.path = is_replica
                       ? replica_of
                       : absl::StrCat(config_.storage().path(), "/snapshots"),
           .read_only = is_replica,
           .clock = backends_.clock.get()},
          backends_.collections, catalog_.get()));
  return absl::OkStatus();
}

void Server::AddServices() {
  const RpcEnvironment* environment = &environment_;
  services_.push_back(
      std::make_unique<ScoringService>(environment, scorer_.get()));
  if (IsScorer()) return;
  services_.push_back(std::make_unique<RetrievalService>(
      environment, engine_.get(), config_.limits().max_inputs()));
  services_.push_back(std::make_unique<EmbeddingService>(
      environment, engine_.get(), config_.limits().max_inputs(),
      config_.server().stream_window()));
  services_.push_back(std::make_unique<ItemsService>(
      environment, engine_.get(), config_.server().stream_window()));
  services_.push_back(std::make_unique<CollectionsService>(
      environment, engine_.get(), snapshots_.get(), jobs_.get()));
  services_.push_back(std::make_unique<ModelsService>(
      environment, engine_.get(), backends_.load_model,
      ModelRoots(config_.models())));
  services_.push_back(
      std::make_unique<GroundingService>(environment, engine_.get()));
  services_.push_back(
      EmptyService(v1::Taxonomy::descriptor(), "Categories", environment));
}

absl::Status Server::Listen() {
  EnableGrpcPlugins();
  const auto max_message_bytes =
      static_cast<int>(config_.server().max_message_bytes());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(config_.server().address(),
                           grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(max_message_bytes);
  builder.SetMaxSendMessageSize(max_message_bytes);
  // Two servers on one port would each get some of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      kMinPingIntervalMs);
  for (const std::unique_ptr<RpcService>& service : services_) {
    builder.RegisterService(service.get());
  }
  grpc_server_ = builder.BuildAndStart();
  if (grpc_server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", config_.server().address(), ": ",
                     ListenError(config_.server().address())));
  }
  address_ = WithPort(config_.server().address(), port);
  for (const std::unique_ptr<RpcService>& service : services_) {
    grpc_server_->GetHealthCheckService()->SetServingStatus(
        service->full_name(), true);
  }
  return absl::OkStatus();
}

void Server::Shutdown() {
  // Also those whose status was set by name; they cannot be set again.
  grpc_server_->GetHealthCheckService()->Shutdown();
  calls_.Close();
  // A call may wait for what a job holds.
  if (jobs_ != nullptr) jobs_->Close();
  Log(LogLevel::kInfo, "draining",
      {{"calls", calls_.count()},
       {"timeout_s", absl::ToDoubleSeconds(drain_timeout_)}});
  if (!calls_.WaitUntilIdle(drain_timeout_)) {
    Log(LogLevel::kWarning, "cancelling", {{"calls", calls_.count()}});
    calls_.CancelAll();
  }
  // Returns once every call has ended.
  grpc_server_->Shutdown(std::chrono::system_clock::now() +
                         absl::ToChronoMilliseconds(kForeignCallGrace));
  grpc_server_->Wait();
  // What no call waits for any more still counts itself.
  if (stage_ != nullptr) stage_->Shutdown();
  if (grounding_ != nullptr) grounding_->Shutdown();
  // A thread may still be leaving its last call.
  slots_->WaitUntilReturned();
  pool_->Shutdown();
  streams_->Shutdown();
  grpc_server_.reset();
  Log(LogLevel::kInfo, "stopped", {});
}

void Server::CancelCalls() { calls_.CancelAll(); }

ServerGauges Server::ReadGauges() const {
  ServerGauges gauges{.queued_requests = static_cast<int64_t>(
                          pool_->queued() + streams_->queued()),
                      .calls_in_flight = calls_.count()};
  AddModelGauges(gauges);
  if (IsScorer()) return gauges;
  gauges.queued_decodes = embedder_->queued_decodes();
  gauges.queued_short_lists = stage_->queued() + grounding_->queued();
  if (remote_ != nullptr) {
    for (const RemoteScorer::EndpointState& state : remote_->states()) {
      gauges.scorers.push_back(
          {.endpoint = state.endpoint,
           .breaker = static_cast<int64_t>(state.breaker)});
    }
  }
  const TextCache::Stats cache = embedder_->cache_stats();
  gauges.text_cache = {.hits = cache.hits,
                       .misses = cache.misses,
                       .entries = cache.entries,
                       .bytes = cache.bytes};
  if (backends_.vectors != nullptr) {
    const VectorCache::Stats vectors = backends_.vectors->stats();
    gauges.vector_cache = {
        .hits = vectors.hits, .misses = vectors.misses, .bytes = vectors.bytes};
  }
  for (const v1::Collection& collection :
       catalog_->List("", config_.limits().max_collections())) {
    gauges.collections.push_back(
        {.name = collection.name(),
         .items = collection.status().item_count(),
         .disk_bytes = collection.status().disk_bytes(),
         .memory_bytes = collection.status().memory_bytes()});
  }
  return gauges;
}

void Server::AddModelGauges(ServerGauges& gauges) const {
  for (const std::shared_ptr<const Model>& model : backends_.models->List()) {
    gauges.model_memory.push_back(
        {.name = model->info().name, .bytes = model->info().memory_bytes});
    const auto add = [&](const char* tower, const Batcher* batcher) {
      if (batcher == nullptr) return;
      gauges.towers.push_back({.model = model->info().name,
                               .tower = tower,
                               .batches = batcher->stats()});
    };
    add("text", model->text_batcher());
    add("image", model->image_batcher());
  }
}

}  // namespace quern
