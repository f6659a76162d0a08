// A few threads of our own. XLA's pool must not be waited for inside a handler, so it is not used.
#pragma once
#include <cstdint>
#include <functional>

namespace ariel {

// Threads that a call may use: the caller and its helpers.
int pool_size();

// Calls work(i) once for each i in [0, n), on the caller's thread and the helpers. If another call
// is using them, the caller does it all.
void parallel(int64_t n, const std::function<void(int64_t)>& work);

}  // namespace ariel
