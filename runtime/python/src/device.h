// Devices as Python has them: a GPU, or an emulator of its own.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::python {

// "cuda:N" or "emulator:PROFILE". An emulated one is alone in its emulator: what is found there, it did.
class OpenDevice {
 public:
  // The options are those of an emulator; a GPU has none. Throws ArgumentError, DriverError.
  OpenDevice(std::string name, runtime::EmulatorOptions options);

  const std::string& name() const { return name_; }
  const runtime::Device& device() const { return device_; }
  runtime::EmulatorDriver* emulator() const { return emulator_.get(); }  // null: a GPU

  // Ctrl-C was pressed, and the work that run() has is to end.
  bool is_interrupted() const { return interrupt_->load(); }

  // Runs what uses the device, without the GIL, which the caller has. In the emulator, where that may take long, signals
  // are looked at meanwhile, and what Ctrl-C raises ends the launch and is thrown. Throws FoundError of what the emulator
  // found. One call at a time.
  void run(const std::function<void()>& work) const;

 private:
  void run_interruptibly(const std::function<void()>& work) const;
  void throw_findings() const;

  std::string name_;
  std::shared_ptr<std::atomic<bool>> interrupt_;
  std::shared_ptr<runtime::EmulatorDriver> emulator_;
  runtime::Device device_;
};

void bind_device(nanobind::module_& module);

}  // namespace sagegen::python
