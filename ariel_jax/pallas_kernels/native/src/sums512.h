// Sums of sixteen registers of sixteen floats at once.
#pragma once
#include <immintrin.h>

namespace ariel {
namespace {

// Lane i of the result is the sum of the lanes of `get(i)`.
template <class Get>
inline __m512 sums_of_sixteen(Get get) {
  __m512 pairs[8], fours[4], halves[2];
  for (int i = 0; i < 8; i++) {
    const __m512 x = get(2 * i), y = get(2 * i + 1);
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  }
  for (int i = 0; i < 4; i++) {
    const __m512d x = _mm512_castps_pd(pairs[2 * i]), y = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  for (int i = 0; i < 2; i++)
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                              _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                       _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}

}  // namespace
}  // namespace ariel
