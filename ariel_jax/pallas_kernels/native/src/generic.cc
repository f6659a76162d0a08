// Kernels for any processor: plain C++ that the compiler may vectorise for its baseline.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ariel {
namespace {

struct Vec {
  static constexpr int width = 8;
  float v[8];
  static Vec zero() { return all(0.f); }
  static Vec all(float x) { return of([&](int) { return x; }); }
  static Vec load(const float* p) { return of([&](int i) { return p[i]; }); }
  static Vec load_some(const float* p, int64_t n) {
    return of([&](int i) { return i < n ? p[i] : 0.f; });
  }
  static Vec load_bf16(const uint16_t* p) {
    return of([&](int i) {
      const uint32_t bits = uint32_t(p[i]) << 16;
      float f;
      std::memcpy(&f, &bits, 4);
      return f;
    });
  }
  static Vec load_i8(const int8_t* p) { return of([&](int i) { return float(p[i]); }); }
  static void load_i4(const uint8_t* p, Vec* out) {  // 32 weights
    for (int o = 0; o < 4; o++)
      out[o] = of([&](int i) { return float(int(o < 2 ? p[8 * o + i] & 15 : p[8 * o - 16 + i] >> 4) - 8); });
  }
  static Vec fma(Vec a, Vec b, Vec c) { return of([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
  static Vec mul(Vec a, Vec b) { return of([&](int i) { return a.v[i] * b.v[i]; }); }
  static Vec add(Vec a, Vec b) { return of([&](int i) { return a.v[i] + b.v[i]; }); }
  static Vec sub(Vec a, Vec b) { return of([&](int i) { return a.v[i] - b.v[i]; }); }
  static Vec max(Vec a, Vec b) { return of([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static Vec exp(Vec x) { return of([&](int i) { return x.v[i] < -87.f ? 0.f : std::exp(x.v[i]); }); }
  float largest() const {
    float top = v[0];
    for (float x : v) top = x > top ? x : top;
    return top;
  }
  Vec pinned() const { return *this; }
  void save(float* p) const { std::memcpy(p, v, 32); }
  template <int COUNT>
  static void sums(const Vec* a, float* out) {
    for (int i = 0; i < COUNT; i++) out[i] = a[i].sum();
  }
  float sum() const {
    float s = 0.f;
    for (float x : v) s += x;
    return s;
  }

 private:
  template <class F>
  static Vec of(F f) {
    Vec r;
    for (int i = 0; i < 8; i++) r.v[i] = f(i);
    return r;
  }
};

}  // namespace
}  // namespace ariel

#include "body.h"

namespace ariel {
namespace {
bool runs_here() { return true; }
}  // namespace
const Kernels* generic_kernels() {
  static const Kernels kernels = {"generic", runs_here, {packed_floats, pack, linear}, top1,
                                  attend_scratch, attend_scores, attend_values, attend_finish};
  return &kernels;
}
}  // namespace ariel
