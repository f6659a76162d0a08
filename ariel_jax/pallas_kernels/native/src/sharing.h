// How the work of a call is shared between threads.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace ariel {
namespace {

// A thread's own memory for one call at a time, from a cache line on: a register that lies across two
// takes two loads. It grows to the largest call.
inline float* scratch_of(int64_t n) {
  constexpr int64_t LINE = 64;
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < n + LINE / 4) memory.resize(n + LINE / 4);
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + LINE - 1) / LINE * LINE);
}

inline void multiply(const ManyRows& use, Linear a) {
  if (const int64_t need = use.packed_floats(a)) {
    float* to = scratch_of(need);
    a.packed = to;
    parallel((a.m + use.group_rows - 1) / use.group_rows, [&](int64_t i) { use.pack(a, i, to); });
  }
  constexpr int64_t STEP = 64;
  parallel((a.n + STEP - 1) / STEP, [&](int64_t i) { use.matmul(a, i * STEP, std::min(a.n, (i + 1) * STEP)); });
}

inline void attend(const Kernels& use, const Attention& a, float* out, float* lse) {
  const int64_t need = use.attend_scratch(a), heads = a.batch * a.n_kv;
  int64_t longest = 0;
  for (int64_t b = 0; b < a.batch; b++) longest = std::max<int64_t>(longest, a.length[b]);
  const int64_t blocks = (std::min(longest, a.capacity) + BLOCK_ROWS - 1) / BLOCK_ROWS;
  // With fewer heads than threads could share evenly, the rows of a head are shared too.
  const int64_t wanted = heads % pool_size() ? (3 * pool_size() + heads - 1) / heads : 1;
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, blocks));
  if (parts == 1) {
    parallel(heads, [&](int64_t i) {
      const int64_t b = i / a.n_kv, c = i % a.n_kv;
      float* scratch = scratch_of(need);
      use.attend_scores(a, b, c, {0, blocks}, scratch);
      use.attend_values(a, b, c, {0, blocks}, scratch);
      use.attend_finish(a, b, c, scratch, out, lse);
    });
    return;
  }
  float* all = scratch_of(heads * need);
  auto of_part = [&](auto work) {
    parallel(heads * parts, [&](int64_t i) {
      const int64_t head = i / parts, part = i % parts;
      work(a, head / a.n_kv, head % a.n_kv, Blocks{blocks * part / parts, blocks * (part + 1) / parts}, all + head * need);
    });
  };
  of_part(use.attend_scores);
  of_part(use.attend_values);
  for (int64_t i = 0; i < heads; i++) use.attend_finish(a, i / a.n_kv, i % a.n_kv, all + i * need, out, lse);
}

}  // namespace
}  // namespace ariel
