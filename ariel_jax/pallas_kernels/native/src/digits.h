// Rows of floats as whole numbers, for products with int8 and int4 weights; for AVX-512.
//
// A row of x is written as s * q with q of 24 bits, relative to its largest number, and q as three
// signed digits of 8 bits: 65536 a + 256 b + c. An instruction then adds four products of a digit and
// a weight, exactly. What is lost is the rounding of x to q, 2^-24 of the largest number of its row.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "vec512.h"

namespace ariel {
namespace {

constexpr float LARGEST = 8355700.f;  // below 127 * (65536 + 256 + 1)

// What a row's sums are multiplied with: s, NaN where the row holds something that is no finite number,
// and last 1, or 2^-100 where the row is so small that s would be too small for a float.
struct Size {
  float s, last;
  float of(float sum, float scale) const { return sum * (s * scale) * last; }
};

// Digits of one row in the order of its inputs, zeros up to `width`.
Size digits(const float* x, int64_t k, int64_t width, int8_t* a, int8_t* b, int8_t* c) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t p = 0; p < k; p += 16) {
    const __m512i bits = _mm512_castps_si512(Vec::load_some(x + p, std::min<int64_t>(16, k - p)).v);
    most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
  const uint32_t largest = _mm512_reduce_max_epu32(most);
  float top;
  std::memcpy(&top, &largest, 4);
  const bool finite = largest < 0x7f800000u;
  const float lift = top < 1e-30f ? 0x1p100f : 1.f;
  const __m512 up = _mm512_set1_ps(finite && top > 0 ? LARGEST / (top * lift) : 0.f);
  const __m512i half = _mm512_set1_epi32(128);
  for (int64_t p = 0; p < width; p += 16) {
    const __m512 v = p < k ? Vec::load_some(x + p, std::min<int64_t>(16, k - p)).v : _mm512_setzero_ps();
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(lift)), up));
    const __m512i q1 = _mm512_srai_epi32(_mm512_add_epi32(q, half), 8);
    const __m512i q2 = _mm512_srai_epi32(_mm512_add_epi32(q1, half), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(a + p), _mm512_cvtepi32_epi8(q2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(b + p), _mm512_cvtepi32_epi8(q1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(c + p), _mm512_cvtepi32_epi8(q));
  }
  return {finite ? top * lift / LARGEST : NAN, 1.f / lift};
}

}  // namespace
}  // namespace ariel
