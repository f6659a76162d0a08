// Premises as bits, 512 at a time, for processors with AVX512-VPOPCNTDQ.
#include "bitset.h"
#include "kernels.h"

#if defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>

namespace ariel {
namespace {

constexpr int64_t W = 16;  // words of a register

struct First {
  int32_t at = -1;
  // Takes in the words from `word` on, of which `some` are not 0.
  inline void add(__m512i bits, __mmask16 some, int64_t word) {
    if (at >= 0 || !some) return;
    const uint32_t lowest = _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(some, bits)));
    at = int32_t(word + __builtin_ctz(some)) * 32 + __builtin_ctz(lowest);
  }
};

// SLOTS and REGISTERS: 0 where they are not known beforehand.
template <int SLOTS, int REGISTERS>
void judge(const Bits& a, int64_t from, int64_t to) {
  const uint32_t* row[MOST_SLOTS];
  const int64_t slots = SLOTS ? SLOTS : a.slots;
  const int64_t whole = REGISTERS ? REGISTERS * W : a.words / W * W;
  const __mmask16 rest = REGISTERS ? 0 : __mmask16((1u << (a.words - whole)) - 1);
  for (int64_t i = from; i < to; i++) {
    if (!a.find(i, row)) {
      a.nothing(i);
      continue;
    }
    // Counts of approvals in the low halves of 32 bits, of denials in the high ones.
    __m512i counts = _mm512_setzero_si512();
    First approving, denying;
    auto take = [&](int64_t w, __mmask16 mask) {
      __m512i covering = _mm512_maskz_loadu_epi32(mask, row[0] + w);
      for (int64_t k = 1; k < slots; k++)
        covering = _mm512_and_si512(covering, _mm512_maskz_loadu_epi32(mask, row[k] + w));
      const __m512i yes = _mm512_and_si512(covering, _mm512_maskz_loadu_epi32(mask, a.approving + w));
      const __m512i no = _mm512_and_si512(covering, _mm512_maskz_loadu_epi32(mask, a.denying + w));
      counts = _mm512_add_epi32(counts, _mm512_popcnt_epi32(yes));
      counts = _mm512_add_epi32(counts, _mm512_slli_epi32(_mm512_popcnt_epi32(no), 16));
      approving.add(yes, _mm512_test_epi32_mask(yes, yes), w);
      denying.add(no, _mm512_test_epi32_mask(no, no), w);
    };
    for (int64_t w = 0; w < whole; w += W) take(w, __mmask16(-1));
    if (rest) take(whole, rest);
    const uint32_t both = _mm512_reduce_add_epi32(counts);
    a.n_approving[i] = both & 0xffffu, a.n_denying[i] = both >> 16;
    a.first_approving[i] = approving.at, a.first_denying[i] = denying.at;
  }
}

template <int SLOTS>
void of_slots(const Bits& a, int64_t from, int64_t to) {
  if (a.words == W) return judge<SLOTS, 1>(a, from, to);
  if (a.words == 2 * W) return judge<SLOTS, 2>(a, from, to);
  return judge<SLOTS, 0>(a, from, to);
}

void any(const Bits& a, int64_t from, int64_t to) {
  if (a.slots == 3) return of_slots<3>(a, from, to);
  if (a.slots == 4) return of_slots<4>(a, from, to);
  if (a.slots == 6) return of_slots<6>(a, from, to);
  return of_slots<0>(a, from, to);
}

}  // namespace

JudgeBits avx512_judge_bits() {
  const bool here = may_use(Level::AVX512_VNNI) && __builtin_cpu_supports("avx512f") &&
                    __builtin_cpu_supports("avx512vpopcntdq");
  return here ? any : nullptr;
}

}  // namespace ariel
#else
namespace ariel {
JudgeBits avx512_judge_bits() { return nullptr; }
}  // namespace ariel
#endif
