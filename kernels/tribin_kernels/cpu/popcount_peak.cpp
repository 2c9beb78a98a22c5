// The rate of "exclusive or, count the ones, add" on registers alone, which bounds xnor.cpp.

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512VPOPCNTDQ__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int SUMS = 8;  // at a time, so that none waits for the one before

typedef uint32_t Vector __attribute__((vector_size(4 * LANES)));

// The ones of each lane, counted as xnor.cpp counts them.
inline Vector popcount(Vector x) {
#if defined(__AVX512VPOPCNTDQ__)
  return (Vector)_mm512_popcnt_epi32((__m512i)x);
#elif defined(__AVX2__)
  const __m256i ones_of_nibble = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i nibble = _mm256_set1_epi8(15), v = (__m256i)x;
  const __m256i bytes = _mm256_add_epi8(
      _mm256_shuffle_epi8(ones_of_nibble, _mm256_and_si256(v, nibble)),
      _mm256_shuffle_epi8(ones_of_nibble, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble)));
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return (Vector)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  x -= (x >> 1) & 0x55555555;
  x = (x & 0x33333333) + ((x >> 2) & 0x33333333);
  x = (x + (x >> 4)) & 0x0F0F0F0F;
  return (x * 0x01010101) >> 24;
#endif
}

// Keeps x, of which the compiler then knows nothing.
inline void forget(Vector& x) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(x));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(x));
#else
  asm volatile("" : "+m"(x));
#endif
}

}  // namespace

extern "C" {

// Every thread of torch's multiplies `steps` times SUMS vectors of signs and adds the products.
// Returns how many bits differ: all of them do, so it is how many were multiplied.
int64_t popcount_peak(int64_t steps) {
  std::atomic<int64_t> differing = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      Vector sums[SUMS] = {}, x = {}, weights = ~x;
      for (int64_t step = 0; step < steps; ++step)
        for (int i = 0; i < SUMS; ++i) {
          forget(x);
          forget(weights);
          sums[i] += popcount(x ^ weights);
        }
      for (int i = 0; i < SUMS; ++i)
        for (int lane = 0; lane < LANES; ++lane) differing += sums[i][lane];
    }
  });
  return differing;
}
}
