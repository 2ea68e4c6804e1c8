#include "tools/sagegen/emulator_options.h"

#include <fmt/format.h>

#include "tools/sagegen/errors.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {

std::vector<const CLI::Option*> define_emulator_options(CLI::App& app,
                                                        runtime::EmulatorOptions& options) {
  const OptionGroup group(app, "Emulator");
  using runtime::AsyncPolicy, runtime::Checks, runtime::SchedulePolicy;
  std::vector<const CLI::Option*> added = {
      add_choice<Checks>(app, "--checks", options.checks,
                         {{"on", Checks::on}, {"off", Checks::off}},
                         "of the emulator (default: on)"),
      add_choice<SchedulePolicy>(app, "--order", options.schedule,
                                 {{"round_robin", SchedulePolicy::round_robin},
                                  {"random", SchedulePolicy::random},
                                  {"reverse", SchedulePolicy::reverse}},
                                 "of warps in the emulator (default: round_robin)"),
      add_choice<AsyncPolicy>(app, "--async", options.async,
                              {{"late", AsyncPolicy::late},
                               {"eager", AsyncPolicy::eager},
                               {"random", AsyncPolicy::random}},
                              "when copies land in the emulator (default: late)")};
  CLI::Option* order_seed = app.add_option("--order-seed", options.seed, "of random orders");
  require_seed(order_seed);
  added.push_back(order_seed);
  return added;
}

void check_order_seed(const runtime::EmulatorOptions& options,
                      const std::vector<const CLI::Option*>& given) {
  for (const CLI::Option* option : given) {
    if (option->get_name() != "--order-seed" || option->count() == 0) continue;
    if (options.schedule != runtime::SchedulePolicy::random &&
        options.async != runtime::AsyncPolicy::random) {
      throw UsageError("--order-seed says nothing without --order random or --async random");
    }
  }
}

void check_emulator_options(const runtime::EmulatorOptions& options,
                            const std::vector<const CLI::Option*>& given,
                            const std::string& device) {
  check_order_seed(options, given);
  if (!device.starts_with("cuda")) return;
  for (const CLI::Option* option : given) {
    if (option->count() == 0) continue;
    throw UsageError(
        fmt::format("{} is refused on --device {}: only the emulator has it; use --device emulator",
                    option->get_name(), device));
  }
}

}  // namespace sagegen::cli
