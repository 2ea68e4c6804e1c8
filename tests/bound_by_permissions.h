// Permissions of files and folders do not bind root, as whom CI runs. Capabilities are a thread's own: one that gives
// up those two is bound, as another user is.
#pragma once

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <future>
#include <stdexcept>

namespace sagegen::test {

// work() on such a thread, which is waited for; what it throws, this throws.
template <typename Work>
void bound_by_permissions(Work work) {
  std::async(std::launch::async, [&] {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
    constexpr unsigned kThose = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
    bool done = syscall(SYS_capget, &header, sets) == 0;
    sets[0].effective &= ~kThose;
    sets[0].permitted &= ~kThose;  // access(2) asks these
    done = done && syscall(SYS_capset, &header, sets) == 0;
    if (!done) throw std::runtime_error("cannot give up capabilities");
    work();
  }).get();
}

}  // namespace sagegen::test
