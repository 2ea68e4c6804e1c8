// The emulator's own options, the same in every command that runs kernels there.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "sagegen/runtime/emulator.h"

namespace sagegen::cli {

// --checks, --order, --async, --order-seed. Returns them, to tell whether they were given.
std::vector<const CLI::Option*> define_emulator_options(CLI::App& app,
                                                        runtime::EmulatorOptions& options);

// UsageError if --order-seed is among `given` and no order is random.
void check_order_seed(const runtime::EmulatorOptions& options,
                      const std::vector<const CLI::Option*>& given);
// The same, and if any of them is given for a GPU.
void check_emulator_options(const runtime::EmulatorOptions& options,
                            const std::vector<const CLI::Option*>& given,
                            const std::string& device);

}  // namespace sagegen::cli
