#include "server/backends.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "engine/base/error.h"
#include "engine/base/memory_limit.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_priority.h"
#include "engine/base/work_crew.h"
#include "engine/index/device_pool.h"
#include "engine/index/gpu_device.h"
#include "engine/index/sharded_index.h"
#include "engine/media/ffmpeg_video_decoder.h"
#include "engine/media/vips_image_decoder.h"
#include "engine/model/load_model.h"
#include "engine/store/rocksdb_item_store.h"
#include "server/config.h"
#include "server/log.h"

namespace quern {
namespace {

absl::StatusOr<Precision> PrecisionOf(const v1::ModelsConfig& config,
                                      v1::Model::Precision wanted) {
  switch (wanted) {
    case v1::Model::PRECISION_FP32:
      return Precision::kFp32;
    case v1::Model::PRECISION_BF16:
      return Precision::kBf16;
    case v1::Model::PRECISION_UNSPECIFIED:
      break;
    default:
      return absl::UnimplementedError(
          "precision: this version has FP32 and BF16");
  }
  switch (config.precision()) {
    case v1::ModelsConfig::PRECISION_FP32:
      return Precision::kFp32;
    case v1::ModelsConfig::PRECISION_BF16:
      return Precision::kBf16;
    default:
      return Precision::kAuto;
  }
}

// What LoadModel() takes of the configuration, for a package that a caller
// names.
absl::StatusOr<LoadModelOptions> ModelOptions(
    const v1::Config& config, const v1::LoadModelRequest& request) {
  const v1::BatchingConfig& batching = config.batching();
  LoadModelOptions options{.path = request.path(),
                           .device = request.device().empty()
                                         ? config.models().device()
                                         : request.device()};
  QUERN_ASSIGN_OR_RETURN(options.precision,
                         PrecisionOf(config.models(), request.precision()));
  options.batching = {.max_rows = batching.max_rows(),
                      .max_age = DurationOf(batching.max_age()),
                      .threads = batching.threads(),
                      .max_wait = DurationOf(batching.max_wait()),
                      .max_queued_rows = batching.max_queued_rows()};
  return options;
}

absl::StatusOr<std::unique_ptr<ModelRegistry>> LoadModels(
    const v1::ModelsConfig& config, const ModelLoader& load) {
  auto models = std::make_unique<ModelRegistry>();
  for (const std::string& path : config.paths()) {
    v1::LoadModelRequest request;
    request.set_path(path);
    absl::StatusOr<std::shared_ptr<const Model>> model = load(request);
    if (absl::IsNotFound(model.status())) {
      return Annotate(model.status(),
                      "run scripts/setup, or set models.paths to the folder "
                      "of a model package");
    }
    QUERN_RETURN_IF_ERROR(model.status());
    models->Put(*std::move(model));
  }
  if (!config.default_model().empty() &&
      !models->SetDefault(config.default_model()).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("models.default_model: ", Quoted(config.default_model()),
                     " is none of the loaded models"));
  }
  return models;
}

SyncMode SyncModeOf(v1::StorageConfig::Sync sync) {
  switch (sync) {
    case v1::StorageConfig::SYNC_INTERVAL:
      return SyncMode::kInterval;
    case v1::StorageConfig::SYNC_OFF:
      return SyncMode::kNever;
    default:
      return SyncMode::kEveryWrite;
  }
}

IndexKind KindOf(v1::IndexConfig::Kind kind) {
  switch (kind) {
    case v1::IndexConfig::KIND_EXACT:
      return IndexKind::kExact;
    case v1::IndexConfig::KIND_HNSW:
      return IndexKind::kHnsw;
    case v1::IndexConfig::KIND_IVF_PQ:
      return IndexKind::kIvfPq;
    default:
      return IndexKind::kAuto;
  }
}

VectorStorage StorageOf(v1::IndexConfig::Storage storage) {
  switch (storage) {
    case v1::IndexConfig::STORAGE_FP16:
      return VectorStorage::kFp16;
    case v1::IndexConfig::STORAGE_INT8:
      return VectorStorage::kInt8;
    default:
      return VectorStorage::kFp32;
  }
}

// The vectors of items as the store has them now.
VectorReader ReaderOf(const ItemStore* store) {
  return
      [store](absl::Span<const std::string> ids,
              const std::function<void(size_t, absl::Span<const float>)>& visit)
          -> absl::Status { return store->GetEmbeddings(ids, visit); };
}

// Null: none are asked for. One that cannot be used is logged, and left out.
absl::StatusOr<std::shared_ptr<const DevicePool>> OpenDevices(
    const v1::IndexingConfig& config) {
  for (int i = 0; i < config.devices_size(); ++i) {
    absl::string_view number = config.devices(i);
    int parsed = 0;
    const auto end = config.devices().begin() + i;
    if (!absl::ConsumePrefix(&number, "cuda:") ||
        !absl::SimpleAtoi(number, &parsed) || parsed < 0 ||
        std::find(config.devices().begin(), end, config.devices(i)) != end) {
      return InvalidField(absl::StrCat("index.devices[", i, "]"),
                          absl::StrCat("is ", Quoted(config.devices(i)),
                                       "; it must be cuda:N, each once"));
    }
  }
  if (config.devices().empty()) return nullptr;
  const std::vector<std::string> names(config.devices().begin(),
                                       config.devices().end());
  return std::make_shared<const DevicePool>(
      names, OpenGpuDevice,
      DevicePoolOptions{.memory_bytes = config.gpu_memory_bytes(),
                        .storage = config.gpu_storage() ==
                                           v1::IndexingConfig::GPU_STORAGE_FP32
                                       ? VectorStorage::kFp32
                                       : VectorStorage::kFp16,
                        .report = [](const std::string& sentence) {
                          Log(LogLevel::kWarning,
                              "device lost: the processor searches",
                              {{"reason", sentence}});
                        }});
}

ShardedIndexOptions IndexOptions(const v1::Collection& record,
                                 const std::string& directory, ItemStore* store,
                                 std::shared_ptr<VectorCache> vectors,
                                 std::shared_ptr<const DevicePool> devices,
                                 std::shared_ptr<WorkCrew> crew,
                                 std::shared_ptr<ThreadPool> background,
                                 const v1::IndexingConfig& limits) {
  const v1::IndexConfig& config = record.index();
  ShardedIndexOptions options{
      .dimension = record.dimension(),
      .metric = MetricOf(record),
      .kind = KindOf(config.kind()),
      .storage = StorageOf(config.storage()),
      .fields = FieldsOf(record),
      .directory = directory,
      // It stays as it is where its store does; a full disk will have room.
      .read_only = !store->write_status().ok() &&
                   !absl::IsResourceExhausted(store->write_status()),
      .oldest_sequence = store->trimmed_sequence(),
      .newest_sequence = store->last_sequence(),
      .reader = ReaderOf(store),
      .cache = std::move(vectors),
      .devices = std::move(devices),
      .crew = std::move(crew),
      .background = std::move(background),
      .build_threads = limits.build_threads(),
      .optimize_threads = limits.build_threads(),
      .unsealed_bytes = limits.unsealed_bytes()};
  if (config.has_target_recall()) {
    options.target_recall = config.target_recall();
  }
  if (config.has_shards()) options.shards = config.shards();
  if (options.unsealed_bytes == 0) options.unsealed_bytes = MemoryLimit() / 8;
  if (options.build_threads == 0) {
    const auto cores = static_cast<int>(std::thread::hardware_concurrency());
    options.build_threads = std::max(1, cores / 2);
    options.optimize_threads = std::max(1, cores);
  }
  options.saved = [store](uint64_t sequence) {
    // A log that is too long costs space alone; the next save tries again.
    const absl::Status ignored = store->TrimChanges(sequence);
  };
  return options;
}

CollectionFactories StoreAndIndex(const v1::StorageConfig& config,
                                  const v1::IndexingConfig& limits,
                                  const Clock* clock,
                                  std::shared_ptr<VectorCache> vectors,
                                  std::shared_ptr<const DevicePool> devices) {
  CollectionFactories factories;
  const std::shared_ptr<rocksdb::Cache> cache =
      CreateBlockCache(config.block_cache_bytes());
  factories.open_store = [clock, cache, sync = SyncModeOf(config.sync()),
                          interval = DurationOf(config.sync_interval())](
                             const std::string& path,
                             const v1::Collection& record)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return RocksdbItemStore::Open({.path = path,
                                   .dimension = record.dimension(),
                                   .sync = sync,
                                   .sync_interval = interval,
                                   .block_cache = cache,
                                   .clock = clock});
  };
  factories.open_read_only = [clock, cache](const std::string& path,
                                            const v1::Collection& record,
                                            const std::string& reason)
      -> absl::StatusOr<std::unique_ptr<ItemStore>> {
    return RocksdbItemStore::Open({.path = path,
                                   .dimension = record.dimension(),
                                   .block_cache = cache,
                                   .clock = clock,
                                   .read_only = reason});
  };
  // One step of one index at a time, whatever the number of collections.
  const auto background = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index",
                        .threads = 1,
                        .max_queue = 4096,
                        .niceness = kBackgroundNiceness,
                        .leaves_first_core = true});
  // With the caller's a thread per core.
  const auto crew = std::make_shared<WorkCrew>(WorkCrewOptions{
      .name = "search",
      .threads = std::max(
          0, static_cast<int>(std::thread::hardware_concurrency()) - 1)});
  factories.crew = crew;
  factories.create_index =
      [vectors = std::move(vectors), background, crew,
       devices = std::move(devices), limits](
          const v1::Collection& record, const std::string& directory,
          ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
    return ShardedIndex::Create(IndexOptions(
        record, directory, store, vectors, devices, crew, background, limits));
  };
  return factories;
}

}  // namespace

absl::StatusOr<Backends> CreateBackends(const v1::Config& config) {
  Backends backends;
  backends.clock = std::make_unique<RealClock>();
  QUERN_ASSIGN_OR_RETURN(
      backends.decoder,
      VipsImageDecoder::Create(
          {.limits = {.max_bytes = config.media().max_image_bytes(),
                      .max_pixels = config.media().max_image_pixels()}}));
  const v1::MediaConfig& media = config.media();
  QUERN_ASSIGN_OR_RETURN(
      backends.videos,
      FfmpegVideoDecoder::Create(
          {.limits = {.max_bytes = media.max_video_bytes(),
                      .max_pixels = media.max_video_pixels(),
                      .max_duration = DurationOf(media.max_video_duration()),
                      .max_decoded_bytes = media.max_video_decoded_bytes(),
                      .max_decode_time =
                          DurationOf(media.max_video_decode_time())}},
          backends.clock.get()));
  backends.load_model = [config](const v1::LoadModelRequest& request)
      -> absl::StatusOr<std::shared_ptr<const Model>> {
    QUERN_ASSIGN_OR_RETURN(const LoadModelOptions options,
                           ModelOptions(config, request));
    return LoadModel(options);
  };
  QUERN_ASSIGN_OR_RETURN(backends.models,
                         LoadModels(config.models(), backends.load_model));
  QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const DevicePool> devices,
                         OpenDevices(config.index()));
  backends.vectors =
      std::make_shared<VectorCache>(config.cache().vector_bytes());
  backends.collections =
      StoreAndIndex(config.storage(), config.index(), backends.clock.get(),
                    backends.vectors, std::move(devices));
  return backends;
}

}  // namespace quern
