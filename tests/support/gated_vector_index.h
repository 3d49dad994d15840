#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "engine/base/request_context.h"
#include "engine/base/status_macros.h"
#include "tests/support/fake_vector_index.h"
#include "tests/support/gate.h"

namespace quern {

// Its Optimize() is half done when it stands at the gate, where it waits until
// the gate opens or its context ends.
class GatedVectorIndex final : public FakeVectorIndex {
 public:
  // `gate` must outlive the index.
  GatedVectorIndex(int64_t dimension, Gate* gate)
      : FakeVectorIndex(dimension), gate_(gate) {}

  absl::Status Optimize(const RequestContext& context,
                        const std::function<void(float)>& progress) override {
    progress(0.5F);
    if (!gate_->reached.HasBeenNotified()) gate_->reached.Notify();
    while (!gate_->open.WaitForNotificationWithTimeout(absl::Milliseconds(1))) {
      QUERN_RETURN_IF_ERROR(context.Check("optimize"));
    }
    return absl::OkStatus();
  }

 private:
  Gate* const gate_;
};

}  // namespace quern
