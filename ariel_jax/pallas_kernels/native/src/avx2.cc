// Kernels for processors with AVX2 and FMA.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace ariel {
namespace {

struct Vec {
  static constexpr int width = 8;
  __m256 v;
  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load_some(const float* p, int64_t n) {
    float some[8] = {};
    std::memcpy(some, p, n * 4);
    return load(some);
  }
  static Vec load_bf16(const uint16_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16))};
  }
  static Vec load_i8(const int8_t* p) {
    const __m128i raw = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(raw))};
  }
  static void load_i4(const uint8_t* p, Vec* out) {  // 32 weights
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), low = _mm_set1_epi8(15);
    const __m128i halves[2] = {_mm_and_si128(raw, low), _mm_and_si128(_mm_srli_epi16(raw, 4), low)};
    for (int i = 0; i < 2; i++) {
      out[2 * i] = from_nibbles(halves[i]);
      out[2 * i + 1] = from_nibbles(_mm_unpackhi_epi64(halves[i], halves[i]));
    }
  }
  static Vec from_nibbles(__m128i raw) {
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(raw), _mm256_set1_epi32(8)))};
  }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  // exp(x) for x <= 0, 0 below -87: 2^n times a polynomial (Cephes, relative error below 2e-7). A NaN
  // stays one: `max` returns its second operand then, and the comparison is true.
  static Vec exp(Vec x) {
    const __m256 big = _mm256_cmp_ps(x.v, _mm256_set1_ps(-87.f), _CMP_NLT_UQ);
    const __m256 y = _mm256_max_ps(_mm256_set1_ps(-87.f), x.v);
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(y, _mm256_set1_ps(1.44269504f)), 0x8);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), y);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
      p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.f)));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return {_mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), big)};
  }
  float largest() const {
    float all[8];
    _mm256_storeu_ps(all, v);
    float top = all[0];
    for (float x : all) top = x > top ? x : top;
    return top;
  }
  // Loaded once, not again by each instruction that uses it.
  Vec pinned() const {
    Vec kept = *this;
    asm("" : "+x"(kept.v));
    return kept;
  }
  void save(float* p) const { _mm256_storeu_ps(p, v); }
  template <int COUNT>
  static void sums(const Vec* a, float* out) {
    for (int i = 0; i < COUNT; i++) out[i] = a[i].sum();
  }
  float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
};

}  // namespace
}  // namespace ariel

#include "body.h"

namespace ariel {
namespace {
bool runs_here() { return may_use(Level::AVX2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
}  // namespace
const Kernels* avx2_kernels() {
  static const Kernels kernels = {"avx2", runs_here, {packed_floats, pack, linear}, top1,
                                  attend_scratch, attend_scores, attend_values, attend_finish};
  return &kernels;
}
}  // namespace ariel
