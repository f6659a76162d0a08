// A register of sixteen floats, for processors with AVX-512 (F, BW, VL, DQ).
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "sums512.h"

namespace ariel {
namespace {

struct Vec {
  static constexpr int width = 16;
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load_some(const float* p, int64_t n) {
    return {_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1u), p)};
  }
  static Vec load_bf16(const uint16_t* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
  }
  static Vec load_i8(const int8_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw))};
  }
  // 32 weights. A table of sixteen floats is looked up by the lowest four bits of each lane.
  static void load_i4(const uint8_t* p, Vec* out) {
    const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    out[0] = {_mm512_permutexvar_ps(index, table)};
    out[1] = {_mm512_permutexvar_ps(_mm512_srli_epi32(index, 4), table)};
  }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  // exp(x) for x <= 0, 0 below -87: 2^n times a polynomial (Cephes, relative error below 2e-7). A NaN
  // stays one: `max` returns its second operand then.
  static Vec exp(Vec x) {
    const __mmask16 tiny = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.f), _CMP_LT_OQ);
    const __m512 y = _mm512_max_ps(_mm512_set1_ps(-87.f), x.v);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(y, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), y);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
      p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.f)));
    return {_mm512_maskz_scalef_ps(__mmask16(~tiny), p, n)};
  }
  float largest() const { return _mm512_reduce_max_ps(v); }
  // Loaded once, not again by each instruction that uses it.
  Vec pinned() const {
    Vec kept = *this;
    asm("" : "+v"(kept.v));
    return kept;
  }
  void save(float* p) const { _mm512_storeu_ps(p, v); }
  // The order of these additions is the one of `sums`.
  float sum() const {
    const __m512 halves = _mm512_add_ps(_mm512_unpacklo_ps(v, v), _mm512_unpackhi_ps(v, v));
    const __m512d x = _mm512_castps_pd(halves);
    const __m512 lanes = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, x)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, x)));
    const __m512 pairs = _mm512_add_ps(_mm512_shuffle_f32x4(lanes, lanes, 0x88), _mm512_shuffle_f32x4(lanes, lanes, 0xdd));
    return _mm512_cvtss_f32(_mm512_add_ps(_mm512_shuffle_f32x4(pairs, pairs, 0x88), _mm512_shuffle_f32x4(pairs, pairs, 0xdd)));
  }
  template <int COUNT>
  static void sums(const Vec* a, float* out) {
    if constexpr (COUNT == 16) {
      _mm512_storeu_ps(out, sums_of_sixteen([a](int i) { return a[i].v; }));
    } else {
      for (int i = 0; i < COUNT; i++) out[i] = a[i].sum();
    }
  }
};

}  // namespace
}  // namespace ariel
