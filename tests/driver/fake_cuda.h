// The fake driver behind the libcuda.so.1 of fake_cuda.cpp.
#pragma once

#include "tests/driver/fake_driver.h"

namespace sagegen::test {

FakeDriver& fake_cuda();

}  // namespace sagegen::test
