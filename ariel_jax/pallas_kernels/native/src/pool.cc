#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace ariel {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto SPIN = std::chrono::microseconds(50);

// How the processor treats numbers below the smallest normal one. XLA sets it for the threads that call
// handlers, and a column must not depend on the thread that makes it.
struct Rounding {
#if defined(__x86_64__)
  unsigned word = __builtin_ia32_stmxcsr();
  void take_on() const { __builtin_ia32_ldmxcsr(word); }
#else
  void take_on() const {}
#endif
};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int allowed() {
  int n = int(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
#endif
  for (const char* name : {"ARIEL_JAX_THREADS", "OMP_NUM_THREADS"})
    if (const char* text = std::getenv(name))
      if (const int asked = std::atoi(text); asked > 0) return std::min(n, asked);
  return std::max(n, 1);
}

class Pool {
 public:
  explicit Pool(int size) : size_(std::max(size, 1)) {
    for (int i = 1; i < size_; i++) helpers_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(sleep_);
      ending_ = true;
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
  }
  int size() const { return size_; }

  void run(int64_t n, const std::function<void(int64_t)>& work) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (n < 2 || size_ == 1 || !turn.owns_lock()) {
      for (int64_t i = 0; i < n; i++) work(i);
      return;
    }
    keep_off_this_processor();
    work_ = &work;
    n_ = n;
    rounding_ = Rounding();
    next_.store(0, std::memory_order_relaxed);
    open_.store(true);
    {
      // Taken by the sleepers between their last look and falling asleep: none is missed.
      std::lock_guard<std::mutex> lock(sleep_);
      round_.fetch_add(1, std::memory_order_release);
    }
    if (asleep_.load(std::memory_order_acquire)) wake_.notify_all();
    const Closing closing{*this};
    take();
  }

 private:
  // Ends a round, also where work throws. Only helpers that are at work are waited for: one that still
  // wakes up finds the round closed.
  struct Closing {
    Pool& pool;
    ~Closing() {
      pool.open_.store(false);
      while (pool.inside_.load()) pause();
    }
  };

  // Linux likes to wake a thread on the processor of its waker, where it would wait for the caller to
  // be done: helpers use the others.
  void keep_off_this_processor() {
#if defined(__linux__)
    const int here = sched_getcpu();
    if (here < 0 || here == avoided_) return;
    cpu_set_t others;
    if (pthread_getaffinity_np(pthread_self(), sizeof others, &others) != 0) return;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (auto& helper : helpers_) pthread_setaffinity_np(helper.native_handle(), sizeof others, &others);
    avoided_ = here;
#endif
  }

  void take() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_;) (*work_)(i);
  }

  void serve() {
    uint64_t seen = 0;
    while (true) {
      const auto since = Clock::now();
      int looks = 0;
      while (round_.load(std::memory_order_acquire) == seen && !ending_) {
        pause();
        if ((++looks & 63) == 0 && Clock::now() - since > SPIN) {
          std::unique_lock<std::mutex> lock(sleep_);
          asleep_.fetch_add(1, std::memory_order_acq_rel);
          wake_.wait(lock, [&] { return round_.load() != seen || ending_; });
          asleep_.fetch_sub(1, std::memory_order_acq_rel);
        }
      }
      if (ending_) return;
      seen = round_.load(std::memory_order_acquire);
      // In this order, against the caller's: either it sees this helper, or the helper that it is late.
      inside_.fetch_add(1);
      if (open_.load()) {
        rounding_.take_on();
        take();
      }
      inside_.fetch_sub(1);
    }
  }

  const int size_;
  std::vector<std::thread> helpers_;
  std::mutex turn_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> asleep_{0}, inside_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> ending_{false}, open_{false};
  const std::function<void(int64_t)>* work_ = nullptr;
  int64_t n_ = 0;
  Rounding rounding_;
  int avoided_ = -1;
};

std::mutex making;
Pool* pool = nullptr;  // never destroyed at exit: a handler may still be running
pid_t owner = 0;

Pool& the_pool() {
  std::lock_guard<std::mutex> lock(making);
  // After a fork the threads are gone; the old pool is left behind with its memory.
  if (pool == nullptr || owner != getpid()) pool = new Pool(allowed()), owner = getpid();
  return *pool;
}

}  // namespace

int pool_size() { return the_pool().size(); }

void parallel(int64_t n, const std::function<void(int64_t)>& work) { the_pool().run(n, work); }

}  // namespace ariel
