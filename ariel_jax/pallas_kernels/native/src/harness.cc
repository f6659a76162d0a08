// Runs the kernels without Python: against a plain loop (also under sanitizers), and timed.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels.h"
#include "pool.h"

using namespace ariel;

static float bf16_to_float(uint16_t h) {
  uint32_t bits = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

int main(int argc, char** argv) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  int failures = 0;
  for (const Kernels* k : {generic_kernels(), avx2_kernels(), avx512_kernels()}) {
    if (!k || !k->runs_here()) continue;
    for (Type type : {Type::F32, Type::BF16, Type::I8, Type::I4})
      for (int64_t m : {1, 2, 3, 5, 8, 17, 33})
        for (int64_t kk : {1, 7, 32, 37, 96, 160})
          for (int64_t n : {1, 2, 7, 67}) {
            if (type == Type::I4 && kk % 32) continue;
            const int64_t group = type == Type::I4 ? 32 : kk;
            std::vector<float> x(m * kk), w(n * kk), scale(n * (kk / group)), bias(n), y(m * n);
            for (auto& v : x) v = normal(rng);
            for (auto& v : w) v = normal(rng);
            for (auto& v : scale) v = 0.01f + std::fabs(normal(rng)) * 0.01f;
            for (auto& v : bias) v = normal(rng);
            std::vector<uint8_t> raw(n * kk * 4);
            std::vector<double> exact(n * kk);
            for (int64_t j = 0; j < n; j++)
              for (int64_t p = 0; p < kk; p++) {
                const int64_t at = j * kk + p;
                const int q = int(w[at] * 40) % 128;
                const int q4 = ((int(w[at] * 4) % 8) + 8) % 16;
                if (type == Type::F32) std::memcpy(&raw[at * 4], &w[at], 4), exact[at] = w[at];
                if (type == Type::BF16) {
                  uint32_t bits;
                  std::memcpy(&bits, &w[at], 4);
                  const uint16_t h = uint16_t(bits >> 16);
                  std::memcpy(&raw[at * 2], &h, 2), exact[at] = bf16_to_float(h);
                }
                if (type == Type::I8)
                  raw[at] = uint8_t(int8_t(q)), exact[at] = double(q) * scale[j * (kk / group) + p / group];
                if (type == Type::I4) {
                  uint8_t& byte = raw[j * (kk / 2) + p / 32 * 16 + p % 16];
                  if (p % 32 < 16) byte = uint8_t(q4); else byte = uint8_t(byte | (q4 << 4));
                  exact[at] = double(q4 - 8) * scale[j * (kk / group) + p / group];
                }
              }
            // Exactly as many bytes as there are: the sanitizer sees a read beyond them.
            const int64_t bytes = n * kk * (type == Type::F32 ? 8 : type == Type::BF16 ? 4 : type == Type::I8 ? 2 : 1) / 2;
            std::vector<uint8_t> tight(raw.begin(), raw.begin() + bytes);
            Linear a{x.data(), tight.data(), scale.data(), bias.data(), y.data(), m, kk, n, group, type, Type::F32};
            parallel((n + 15) / 16, [&](int64_t i) { k->linear(a, i * 16, std::min(n, i * 16 + 16)); });
            for (int64_t i = 0; i < m; i++)
              for (int64_t j = 0; j < n; j++) {
                double want = bias[j], size = 0;
                for (int64_t p = 0; p < kk; p++) {
                  want += double(x[i * kk + p]) * exact[j * kk + p];
                  size += std::fabs(double(x[i * kk + p]) * exact[j * kk + p]);
                }
                if (std::fabs(y[i * n + j] - want) > 1e-5 * (1 + size)) {
                  if (failures++ < 5)
                    std::printf("%s type %d m %ld k %ld n %ld: %g for %g\n", k->name, int(type), long(m), long(kk), long(n), y[i * n + j], want);
                }
              }
          }
    std::printf("%s checked, %d failures\n", k->name, failures);
  }
  if (argc > 1) {
    const Kernels* k = avx512_kernels();
    for (auto shape : {std::pair<int64_t, int64_t>{2048, 8192}, {8192, 2048}, {768, 3072}, {256, 768}}) {
      const int64_t kk = shape.first, n = shape.second;
      for (Type type : {Type::F32, Type::BF16, Type::I8, Type::I4})
        for (int64_t m : {1, 4, 8}) {
          const double bytes = double(n) * kk * (type == Type::F32 ? 4 : type == Type::BF16 ? 2 : type == Type::I8 ? 1 : 0.5);
          const int copies = int(3e8 / bytes) + 1;
          std::vector<uint8_t> w(size_t(bytes) * copies, 1);
          std::vector<float> x(m * kk, 1.f), scale(n * kk / 32, 1.f), y(m * n);
          double best = 1e9;
          for (int round = 0; round < 5; round++) {
            const auto begin = std::chrono::steady_clock::now();
            for (int c = 0; c < copies; c++) {
              Linear a{x.data(), w.data() + size_t(bytes) * c, scale.data(), nullptr, y.data(), m, kk, n, type == Type::I4 ? 64 : kk, type, Type::F32};
              const int64_t parts = (n + 63) / 64;
              parallel(parts, [&](int64_t i) { k->linear(a, i * 64, std::min(n, i * 64 + 64)); });
            }
            best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / copies);
          }
          std::printf("%ldx%ld type %d m=%ld: %.3f ms %.1f GB/s\n", long(kk), long(n), int(type), long(m), best * 1e3, bytes / best / 1e9);
        }
    }
  }
  return failures != 0;
}
