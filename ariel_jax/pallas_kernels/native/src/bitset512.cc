// Premises as bits, 512 at a time, for processors with AVX512-VPOPCNTDQ.
#include "bitset.h"
#include "kernels.h"

#if defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>

namespace ariel {
namespace {

constexpr int64_t W = 16;  // words of a register

// The first set bit of numbers kept in memory, of which `some` are not 0; no branch, for it is anybody's guess.
inline int32_t first_of(const uint64_t* numbers, uint32_t some) {
  const int32_t at = some ? __builtin_ctz(some) : 0;
  const int32_t found = at * 64 + int32_t(__builtin_ctzll(numbers[at] | 1ull << 63));
  return some ? found : -1;
}

inline int64_t sum(__m512i x) {  // of eight numbers
  const __m256i four = _mm256_add_epi64(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
}

// Up to 4 registers of words. SLOTS: 0 where it is not known beforehand. Premises of a kind lie side by side as
// `bulk` packs them, so that most registers have one kind alone: the other is not looked for there.
template <int SLOTS, int REGISTERS>
void judge_few(const Bits& a, int64_t from, int64_t to) {
  const uint32_t* row[MOST_SLOTS];
  alignas(64) uint64_t yes[8 * REGISTERS] = {}, no[8 * REGISTERS] = {};
  const int64_t slots = SLOTS ? SLOTS : a.slots;
  __mmask16 inside[REGISTERS];
  __m512i approving[REGISTERS], denying[REGISTERS];
  bool approves[REGISTERS], denies[REGISTERS];
  for (int r = 0; r < REGISTERS; r++) {
    const int64_t left = a.words - r * W;
    inside[r] = left >= W ? __mmask16(-1) : left > 0 ? __mmask16((1u << left) - 1) : __mmask16(0);
    approving[r] = _mm512_maskz_loadu_epi32(inside[r], a.approving + r * W);
    denying[r] = _mm512_maskz_loadu_epi32(inside[r], a.denying + r * W);
    approves[r] = _mm512_test_epi32_mask(approving[r], approving[r]);
    denies[r] = _mm512_test_epi32_mask(denying[r], denying[r]);
  }
  for (int64_t i = from; i < to; i++) {
    if (!a.find<SLOTS>(i, row)) {
      a.nothing(i);
      continue;
    }
    // Counts of approvals in the low halves of 64 bits, of denials in the high ones.
    __m512i counts = _mm512_setzero_si512();
    uint32_t some_yes = 0, some_no = 0;
    for (int r = 0; r < REGISTERS; r++) {
      __m512i covering = _mm512_maskz_loadu_epi32(inside[r], row[0] + r * W);
      for (int64_t k = 1; k < slots; k++)
        covering = _mm512_and_si512(covering, _mm512_maskz_loadu_epi32(inside[r], row[k] + r * W));
      if (approves[r]) {
        const __m512i y = _mm512_and_si512(covering, approving[r]);
        counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(y));
        some_yes |= uint32_t(_mm512_test_epi64_mask(y, y)) << 8 * r;
        _mm512_store_si512(yes + 8 * r, y);
      }
      if (denies[r]) {
        const __m512i n = _mm512_and_si512(covering, denying[r]);
        counts = _mm512_add_epi64(counts, _mm512_slli_epi64(_mm512_popcnt_epi64(n), 32));
        some_no |= uint32_t(_mm512_test_epi64_mask(n, n)) << 8 * r;
        _mm512_store_si512(no + 8 * r, n);
      }
    }
    const uint64_t both = uint64_t(sum(counts));
    a.n_approving[i] = int32_t(both & 0xffffffffu), a.n_denying[i] = int32_t(both >> 32);
    a.first_approving[i] = first_of(yes, some_yes), a.first_denying[i] = first_of(no, some_no);
  }
}

struct First {
  int32_t at = -1;
  // Takes in the words from `word` on, of which `some` are not 0.
  inline void add(__m512i bits, __mmask16 some, int64_t word) {
    if (at >= 0 || !some) return;
    const uint32_t lowest = _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(some, bits)));
    at = int32_t(word + __builtin_ctz(some)) * 32 + __builtin_ctz(lowest);
  }
};

void judge_many(const Bits& a, int64_t from, int64_t to) {
  const uint32_t* row[MOST_SLOTS];
  const int64_t whole = a.words / W * W;
  const __mmask16 rest = __mmask16((1u << (a.words - whole)) - 1);
  for (int64_t i = from; i < to; i++) {
    if (!a.find<0>(i, row)) {
      a.nothing(i);
      continue;
    }
    __m512i counts = _mm512_setzero_si512();
    First approving, denying;
    auto take = [&](int64_t w, __mmask16 mask) {
      __m512i covering = _mm512_maskz_loadu_epi32(mask, row[0] + w);
      for (int64_t k = 1; k < a.slots; k++)
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

// One or two words: a number of 64 bits, for which registers of 512 are too wide.
template <int SLOTS, int WORDS>
void judge_number(const Bits& a, int64_t from, int64_t to) {
  const uint32_t* row[MOST_SLOTS];
  const int64_t slots = SLOTS ? SLOTS : a.slots;
  auto number = [](const uint32_t* words) { return uint64_t(words[0]) | (WORDS == 2 ? uint64_t(words[WORDS - 1]) << 32 : 0); };
  const uint64_t approving = number(a.approving), denying = number(a.denying);
  for (int64_t i = from; i < to; i++) {
    if (!a.find<SLOTS>(i, row)) {
      a.nothing(i);
      continue;
    }
    uint64_t covering = number(row[0]);
    for (int64_t k = 1; k < slots; k++) covering &= number(row[k]);
    const uint64_t yes = covering & approving, no = covering & denying;
    a.n_approving[i] = __builtin_popcountll(yes), a.n_denying[i] = __builtin_popcountll(no);
    a.first_approving[i] = yes ? __builtin_ctzll(yes) : -1;
    a.first_denying[i] = no ? __builtin_ctzll(no) : -1;
  }
}

template <int SLOTS>
void of_slots(const Bits& a, int64_t from, int64_t to) {
  if (a.words == 1) return judge_number<SLOTS, 1>(a, from, to);
  if (a.words == 2) return judge_number<SLOTS, 2>(a, from, to);
  if (a.words <= W) return judge_few<SLOTS, 1>(a, from, to);
  if (a.words <= 2 * W) return judge_few<SLOTS, 2>(a, from, to);
  if (a.words <= 4 * W) return judge_few<SLOTS, 4>(a, from, to);
  return judge_many(a, from, to);
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
