// Premises as bits, for any processor.
#include "bitset.h"

namespace ariel {
namespace {

int32_t count(uint32_t x) {  // sums of pairs of bits, of four, of eight
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  return int32_t(((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}

}  // namespace

void judge_bits(const Bits& a, int64_t from, int64_t to) {
  const uint32_t* row[MOST_SLOTS];
  for (int64_t i = from; i < to; i++) {
    if (!a.find<0>(i, row)) {
      a.nothing(i);
      continue;
    }
    int32_t n[2] = {0, 0}, first[2] = {-1, -1};
    for (int64_t w = 0; w < a.words; w++) {
      uint32_t covering = row[0][w];
      for (int64_t k = 1; k < a.slots; k++) covering &= row[k][w];
      const uint32_t kinds[2] = {covering & a.approving[w], covering & a.denying[w]};
      for (int kind = 0; kind < 2; kind++) {
        n[kind] += count(kinds[kind]);
        if (first[kind] < 0 && kinds[kind]) first[kind] = int32_t(w * 32) + __builtin_ctz(kinds[kind]);
      }
    }
    a.n_approving[i] = n[0], a.n_denying[i] = n[1];
    a.first_approving[i] = first[0], a.first_denying[i] = first[1];
  }
}

}  // namespace ariel
