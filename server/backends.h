#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "engine/base/clock.h"
#include "engine/index/vector_cache.h"
#include "engine/media/image.h"
#include "engine/media/video.h"
#include "engine/model/model_registry.h"
#include "engine/query/collection.h"
#include "quern/v1/config.pb.h"
#include "server/models_service.h"

namespace quern {

// What a server is built on; tests give fakes.
struct Backends {
  std::unique_ptr<Clock> clock;
  std::unique_ptr<ImageDecoder> decoder;
  std::unique_ptr<VideoDecoder> videos;  // Null: none are taken.
  std::unique_ptr<ModelRegistry> models;
  ModelLoader load_model;
  CollectionFactories collections;
  std::shared_ptr<VectorCache> vectors;  // Of all indexes; null: none.
  absl::Duration stall_timeout = absl::Minutes(1);  // As RpcEnvironment's.
};

// The real ones: libvips, LibTorch, RocksDB and FAISS. Models come back loaded,
// with their canaries passed. Errors: those of loading a model, naming its
// folder; kInvalidArgument for a models.default_model that is not loaded.
absl::StatusOr<Backends> CreateBackends(const v1::Config& config);

}  // namespace quern
