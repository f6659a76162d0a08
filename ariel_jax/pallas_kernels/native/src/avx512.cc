// Kernels for processors with AVX-512 (F, BW, VL, DQ).
#include "vec512.h"
#include "body.h"

namespace ariel {
namespace {
bool runs_here() {
  return may_use(Level::AVX512) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
}  // namespace
const Kernels* avx512_kernels() {
  static const Kernels kernels = {"avx512", runs_here, {packed_floats, pack, linear}, top1,
                                  attend_scratch, attend_scores, attend_values, attend_finish};
  return &kernels;
}
}  // namespace ariel
