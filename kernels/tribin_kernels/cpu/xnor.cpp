// The 1-bit convolution on a CPU: popcounts of the differing bits of pixels and weights.
//
// It computes VECTORS·LANES outputs of PIXELS neighbouring pixels at a time, an output a
// lane, so that nothing is added across lanes. Row bits are as tribin_kernels.reference has them.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int WORD_BITS = 32;

#if defined(__AVX512VPOPCNTDQ__)
constexpr int LANES = 16, VECTORS = 4, PIXELS = 4;
#else
constexpr int LANES = 8, VECTORS = 4, PIXELS = 2;
#endif
constexpr int BLOCK = LANES * VECTORS;  // outputs, whole words of their signs
constexpr int64_t PIECE = 64;           // pixels of a line that a thread takes at once

typedef uint32_t Vector __attribute__((vector_size(4 * LANES)));

// The ones of each lane.
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

}  // namespace

extern "C" {

struct Conv2d {
  int64_t batch, height, width, channels, words;  // of the input
  int64_t out_height, out_width, outputs;
  int64_t kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x;
};

}  // extern "C"

namespace {

struct Operands {
  const uint32_t* x;        // [batch, height, width, words]
  const uint32_t* weights;  // [outputs, taps, words]
  const float* scale;       // [outputs]
  const float* bias;        // [outputs] or null
  const float* slope;       // [outputs] or null
  const float* residual;    // [batch, out_height, out_width, outputs] or null
  float* y;                 // as residual, or null
  uint32_t* signs;          // [batch, out_height, out_width, ceil(outputs/32)] or null
};

// The weights of one block of outputs, with the outputs side by side: [taps, words, BLOCK].
struct Tile {
  std::vector<Vector> bits;
  float scale[BLOCK], bias[BLOCK], slope[BLOCK];

  void load(const Conv2d& shape, const Operands& data, int64_t first) {
    const int64_t row = shape.kernel_height * shape.kernel_width * shape.words;
    const int64_t count = std::min<int64_t>(BLOCK, shape.outputs - first);
    bits.assign(row * VECTORS, Vector{});
    uint32_t* words = reinterpret_cast<uint32_t*>(bits.data());
    for (int64_t output = 0; output < count; ++output)
      for (int64_t word = 0; word < row; ++word)
        words[word * BLOCK + output] = data.weights[(first + output) * row + word];
    // Of outputs that are not there the result is 0, whose sign is a bit 0.
    std::fill_n(scale, BLOCK, 0.0f);
    std::fill_n(bias, BLOCK, 0.0f);
    std::fill_n(slope, BLOCK, 0.0f);
    std::copy_n(data.scale + first, count, scale);
    if (data.bias) std::copy_n(data.bias + first, count, bias);
    if (data.slope) std::copy_n(data.slope + first, count, slope);
  }
};

// Adds, for COUNT pixels, the differing bits of `words` words of theirs and of the weights.
template <int COUNT>
void multiply(const uint32_t* const* pixels, const Vector* weights, int64_t words,
              Vector (*ones)[VECTORS]) {
  Vector sums[COUNT][VECTORS];  // registers, which `ones` is not
  for (int pixel = 0; pixel < COUNT; ++pixel)
    for (int i = 0; i < VECTORS; ++i) sums[pixel][i] = ones[pixel][i];
  for (int64_t word = 0; word < words; ++word)
    for (int pixel = 0; pixel < COUNT; ++pixel) {
      const Vector x = pixels[pixel][word] - Vector{};
      for (int i = 0; i < VECTORS; ++i)
        sums[pixel][i] += popcount(x ^ weights[word * VECTORS + i]);
    }
  for (int pixel = 0; pixel < COUNT; ++pixel)
    for (int i = 0; i < VECTORS; ++i) ones[pixel][i] = sums[pixel][i];
}

void finish(const Conv2d& shape, const Operands& data, const Tile& tile, int64_t first,
            int64_t pixel, int64_t terms, const Vector (&ones)[VECTORS]) {
  const int64_t count = std::min<int64_t>(BLOCK, shape.outputs - first);
  const int64_t at = pixel * shape.outputs + first;
  int32_t differing[BLOCK];
  float y[BLOCK];
  std::memcpy(differing, ones, sizeof differing);
  for (int i = 0; i < BLOCK; ++i) {
    const float product = int32_t(terms) - 2 * differing[i];
    y[i] = std::fma(product, tile.scale[i], tile.bias[i]);
  }
  if (data.slope)
    for (int i = 0; i < BLOCK; ++i) y[i] = y[i] > 0 ? y[i] : tile.slope[i] * y[i];
  if (data.residual)
    for (int64_t i = 0; i < count; ++i) y[i] += data.residual[at + i];
  if (data.y) std::copy_n(y, count, data.y + at);
  if (data.signs) {
    const int64_t row = (shape.outputs + WORD_BITS - 1) / WORD_BITS;
    uint32_t* signs = data.signs + pixel * row + first / WORD_BITS;
    for (int64_t word = 0; word < (count + WORD_BITS - 1) / WORD_BITS; ++word) {
      uint32_t bits = 0;
      for (int i = 0; i < WORD_BITS; ++i) bits |= uint32_t(y[word * WORD_BITS + i] < 0) << i;
      signs[word] = bits;
    }
  }
}

// COUNT neighbouring pixels from column `x` on of one line of the output.
template <int COUNT>
void compute(const Conv2d& shape, const Operands& data, const Tile& tile, int64_t first,
             int64_t image, int64_t y, int64_t x) {
  // The columns of the kernel that are inside the image, for each pixel and for all of them.
  int64_t begin[COUNT], end[COUNT];
  for (int i = 0; i < COUNT; ++i) {
    const int64_t column = (x + i) * shape.stride_x - shape.padding_x;
    begin[i] = std::clamp<int64_t>(-column, 0, shape.kernel_width);
    end[i] = std::clamp<int64_t>(shape.width - column, begin[i], shape.kernel_width);
  }
  const int64_t all_end = *std::min_element(end, end + COUNT);
  const int64_t all_begin = std::min(*std::max_element(begin, begin + COUNT), all_end);

  Vector ones[COUNT][VECTORS] = {};
  int64_t lines = 0;
  for (int64_t ky = 0; ky < shape.kernel_height; ++ky) {
    const int64_t line = y * shape.stride_y - shape.padding_y + ky;
    if (line < 0 || line >= shape.height) continue;
    ++lines;
    const uint32_t* pixels[COUNT];  // where the kernel's column 0 would be
    for (int i = 0; i < COUNT; ++i) {
      const int64_t column = (x + i) * shape.stride_x - shape.padding_x;
      pixels[i] = data.x + ((image * shape.height + line) * shape.width + column) * shape.words;
    }
    const Vector* weights = tile.bits.data() + ky * shape.kernel_width * shape.words * VECTORS;
    const auto add = [&]<int N>(int first_pixel, int64_t from, int64_t to) {
      const uint32_t* here[N];
      for (int i = 0; i < N; ++i) here[i] = pixels[first_pixel + i] + from * shape.words;
      multiply<N>(here, weights + from * shape.words * VECTORS, (to - from) * shape.words,
                  ones + first_pixel);
    };
    add.template operator()<COUNT>(0, all_begin, all_end);
    for (int i = 0; i < COUNT; ++i) {
      if (begin[i] < all_begin) add.template operator()<1>(i, begin[i], std::min(end[i], all_begin));
      if (end[i] > all_end) add.template operator()<1>(i, std::max(begin[i], all_end), end[i]);
    }
  }
  const int64_t pixel = (image * shape.out_height + y) * shape.out_width + x;
  for (int i = 0; i < COUNT; ++i) {
    const int64_t terms = lines * (end[i] - begin[i]) * shape.channels;
    finish(shape, data, tile, first, pixel + i, terms, ones[i]);
  }
}

// Columns from `begin` to `end` of one line of the output.
void compute_line(const Conv2d& shape, const Operands& data, const Tile& tile, int64_t first,
                  int64_t line, int64_t begin, int64_t end) {
  const int64_t image = line / shape.out_height, y = line % shape.out_height;
  int64_t x = begin;
  for (; x + PIXELS <= end; x += PIXELS) compute<PIXELS>(shape, data, tile, first, image, y, x);
  for (; x < end; ++x) compute<1>(shape, data, tile, first, image, y, x);
}

}  // namespace

extern "C" {

void tribin_conv2d_w1a1(const Conv2d* shape, const uint32_t* x, const uint32_t* weights,
                        const float* scale, const float* bias, const float* slope,
                        const float* residual, float* y, uint32_t* signs) {
  const Operands data{x, weights, scale, bias, slope, residual, y, signs};
  const int64_t blocks = (shape->outputs + BLOCK - 1) / BLOCK;
  const int64_t lines = shape->batch * shape->out_height;
  const int64_t pieces = (shape->out_width + PIECE - 1) / PIECE;
  at::parallel_for(0, blocks * lines * pieces, 1, [&](int64_t begin, int64_t end) {
    Tile tile;
    int64_t loaded = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task / pieces / lines, line = task / pieces % lines;
      const int64_t x = task % pieces * PIECE;
      if (block != loaded) tile.load(*shape, data, block * BLOCK);
      loaded = block;
      compute_line(*shape, data, tile, block * BLOCK, line, x,
                   std::min(x + PIECE, shape->out_width));
    }
  });
}

// x [rows, channels] to row bits [rows, ceil(channels/32)].
void tribin_pack_signs(const float* x, uint32_t* bits, int64_t rows, int64_t channels) {
  const int64_t words = (channels + WORD_BITS - 1) / WORD_BITS;
  at::parallel_for(0, rows, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t word = 0; word < words; ++word) {
        const float* values = x + row * channels + word * WORD_BITS;
        const int64_t count = std::min<int64_t>(WORD_BITS, channels - word * WORD_BITS);
        uint32_t packed = 0;
        if (count == WORD_BITS)
          for (int i = 0; i < WORD_BITS; ++i) packed |= uint32_t(values[i] < 0) << i;
        else
          for (int i = 0; i < count; ++i) packed |= uint32_t(values[i] < 0) << i;
        bits[row * words + word] = packed;
      }
  });
}
}
