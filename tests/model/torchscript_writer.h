#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quern {

// Compiles `methods` (Python source of a TorchScript module's methods) and
// saves the module at `file`. Its attribute `weight` is `weight`, rows x
// columns.
void WriteTorchScript(const std::string& file, const std::string& methods,
                      std::vector<float> weight = {0}, int64_t rows = 1,
                      int64_t columns = 1);

}  // namespace quern
