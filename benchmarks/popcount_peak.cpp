// The rate of "exclusive or, count the ones, add" on registers alone: the floor of the 1-bit kernel.

#include <ATen/Parallel.h>

#include <cstdint>

#if defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#endif

extern "C" {

// Every thread of torch's multiplies and adds `steps` times 16 · 512 bits; returns the last sums.
int64_t popcount_peak(int64_t steps) {
  int64_t result = 0;
#if defined(__AVX512VPOPCNTDQ__)
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      __m512i sums[16] = {}, x = _mm512_set1_epi32(thread);
      for (int64_t step = 0; step < steps; ++step)
        for (int i = 0; i < 16; ++i) {  // the compiler can't know that x stays the same
          asm volatile("" : "+v"(x));
          const __m512i differing = _mm512_xor_si512(x, sums[(i + 8) % 16]);
          sums[i] = _mm512_add_epi32(sums[i], _mm512_popcnt_epi32(differing));
        }
      for (int i = 0; i < 16; ++i) result += _mm512_reduce_add_epi32(sums[i]);
    }
  });
#endif
  return result;
}
}
