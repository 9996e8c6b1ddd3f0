// CPU kernels of lafr_arch/fast.py on channels-last maps (B, H, W, C), C a multiple of 16, in float or bfloat16:
// Winograd's convolution F(4x4, 3x3) (Lavin and Gray, arXiv:1509.09308) and what stands around a convolution in these
// networks: group normalisation, SiLU, nearest x2, bias, residual.
//
// Compiled where it runs. Plain C calls and OpenMP only: it does not depend on torch's headers or version.

#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16; // floats in a register
#else
constexpr int64_t LANES = 8;
#endif
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float VecMemory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Half __attribute__((vector_size(2 * LANES)));
typedef uint16_t HalfMemory __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct BFloat16 {
    uint16_t bits;
};

inline Vec load(const float *p) { return *reinterpret_cast<const VecMemory *>(p); }
inline void store(float *p, Vec v) { *reinterpret_cast<VecMemory *>(p) = v; }

inline Vec load(const BFloat16 *p) {
    Half half = *reinterpret_cast<const HalfMemory *>(p);
    return (Vec)(__builtin_convertvector(half, Bits) << 16);
}

inline void store(BFloat16 *p, Vec v) {
    Bits bits = (Bits)v;
    Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; // to nearest, ties to even
    Bits nan = (Bits)(v != v);
    *reinterpret_cast<HalfMemory *>(p) = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Half);
}

inline Vec splat(float x) { return Vec{} + x; }

inline Vec minimum(Vec x, Vec y) { return x > y ? y : x; } // gives x where it is NaN

// exp of x, held within -80 .. 80, as 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' coefficients): 2 units in the last place.
inline Vec exponential(Vec x) {
    x = minimum(x, splat(80.0f));
    x = x < -80.0f ? splat(-80.0f) : x;
    const float shift = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
    Vec n = x * 1.44269504f + shift;
    Int exponent = (Int)n << 23;
    n -= shift;
    Vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (Vec)((Int)p + exponent);
}

// 1 / x, for x of at least 1.
inline Vec reciprocal(Vec x) {
#ifdef __AVX512F__
    Vec r = (Vec)_mm512_rcp14_ps((__m512)x); // 14 bits; a step of Newton's method doubles them, in a third of the time
    return r * (2.0f - x * r);               // of a division
#else
    return 1.0f / x;
#endif
}

inline Vec silu(Vec x) { return x * reciprocal(exponential(-x) + 1.0f); }

// What happens to a value as it is read: 1: SiLU; 2: times scale plus shift of its image and channel.
template <int ACT> inline Vec activate(Vec x, const float *scale, const float *shift) {
    if constexpr ((ACT & 2) != 0) x = x * load(scale) + load(shift);
    if constexpr ((ACT & 1) != 0) x = silu(x);
    return x;
}

// B^T, applied to six values at distance `step`.
inline void transform_input(const Vec *d, int64_t step, Vec *out) {
    Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    Vec a = d4 - 4.0f * d2, b = d3 - 4.0f * d1, c = d4 - d2, e = 2.0f * (d3 - d1);
    out[0] = 4.0f * d0 - 5.0f * d2 + d4;
    out[1] = a + b;
    out[2] = a - b;
    out[3] = c + e;
    out[4] = c - e;
    out[5] = 4.0f * d1 - 5.0f * d3 + d5;
}

// A^T, applied to six values at distance `step`.
inline void transform_output(const Vec *m, int64_t step, Vec *out) {
    Vec m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step], m5 = m[5 * step];
    Vec a = m1 + m2, b = m1 - m2, c = m3 + m4, d = m3 - m4;
    out[0] = m0 + a + c;
    out[1] = b + 2.0f * d;
    out[2] = a + 4.0f * c;
    out[3] = b + 8.0f * d + m5;
}

// Tiles first .. first + count of x (B, H, W, C), or of x doubled by nearest neighbours -> v (36, plane), with tile
// `first` at the start of each plane.
template <class T, int ACT, bool DOUBLE>
void winograd_input(const T *x, const float *scale, const float *shift, float *v, int64_t plane, int64_t height,
                    int64_t width, int64_t channels, int64_t first, int64_t count) {
    constexpr int READ = DOUBLE ? 4 : 6; // values read along each side of a tile
    const int64_t grow = DOUBLE ? 2 : 1;
    const int64_t across = (grow * width + 3) / 4, down = (grow * height + 3) / 4;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const int64_t tile = first + i, image = tile / (across * down);
        const int64_t top = tile / across % down * 4 / grow - 1, left = tile % across * 4 / grow - 1;
        const T *base = x + image * height * width * channels;
        for (int64_t c = 0; c < channels; c += LANES) {
            Vec d[6][6], t[6][6], row[6];
            const float *a = scale + image * channels + c, *b = shift + image * channels + c;
            for (int r = 0; r < READ; r++) {
                for (int s = 0; s < READ; s++) {
                    const int64_t y = top + r, z = left + s;
                    const bool inside = y >= 0 && y < height && z >= 0 && z < width;
                    d[r][s] = inside ? activate<ACT>(load(base + (y * width + z) * channels + c), a, b) : Vec{};
                }
            }
            if constexpr (DOUBLE) { // 0 1 2 3 -> 0 1 1 2 2 3
                for (int r = 0; r < 4; r++) {
                    d[r][5] = d[r][3];
                    d[r][4] = d[r][3] = d[r][2];
                    d[r][2] = d[r][1];
                }
                for (int s = 0; s < 6; s++) {
                    d[5][s] = d[3][s];
                    d[4][s] = d[3][s] = d[2][s];
                    d[2][s] = d[1][s];
                }
            }
            for (int s = 0; s < 6; s++) transform_input(&d[0][s], 6, t[s]);
            float *out = v + i * channels + c;
            for (int r = 0; r < 6; r++) {
                transform_input(&t[0][r], 6, row);
                for (int s = 0; s < 6; s++) store(out + (6 * r + s) * plane, row[s]);
            }
        }
    }
}

// m (36, plane), tiles first .. first + count -> out (B, H, W, C), plus bias and the residual where it is not null.
template <class T>
void winograd_output(const float *m, const float *bias, const T *residual, T *out, int64_t plane, int64_t height,
                     int64_t width, int64_t channels, int64_t first, int64_t count) {
    const int64_t across = (width + 3) / 4, down = (height + 3) / 4;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const int64_t tile = first + i, image = tile / (across * down);
        const int64_t top = tile / across % down * 4, left = tile % across * 4;
        for (int64_t c = 0; c < channels; c += LANES) {
            Vec d[36], t[6][4], row[4];
            const float *in = m + i * channels + c;
            for (int k = 0; k < 36; k++) d[k] = load(in + k * plane);
            for (int s = 0; s < 6; s++) transform_output(d + s, 6, t[s]);
            const Vec b = load(bias + c);
            for (int r = 0; r < 4 && top + r < height; r++) {
                transform_output(&t[0][r], 4, row);
                const int64_t at = ((image * height + top + r) * width + left) * channels + c;
                for (int s = 0; s < 4 && left + s < width; s++) {
                    Vec y = row[s] + b;
                    if (residual != nullptr) y += load(residual + at + s * channels);
                    store(out + at + s * channels, y);
                }
            }
        }
    }
}

// Rows of `a` and, in vectors, columns of `b` that a matrix product holds in registers: of 32 in AVX-512, else 16.
constexpr int ROWS = LANES == 16 ? 12 : 6, COLUMNS = 2;
constexpr int64_t PANEL = COLUMNS * LANES;

// a (R of R, K) with rows at distance `row_a`, b (K, V vectors) -> c (R, V vectors) with rows at distance `row_c`.
template <int R, int V>
inline void product(const float *a, int64_t row_a, const float *b, float *c, int64_t row_c, int64_t depth) {
    Vec sum[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sum[r][v] = Vec{};
    for (int64_t k = 0; k < depth; k++) {
        Vec right[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) right[v] = load(b + (k * V + v) * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const Vec left = splat(a[r * row_a + k]);
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) sum[r][v] += left * right[v];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) store(c + r * row_c + v * LANES, sum[r][v]);
}

// The same for any number of rows, a few at a time.
template <int R, int V>
void rows_product(const float *a, int64_t row_a, const float *b, float *c, int64_t row_c, int64_t depth, int64_t rows) {
    int64_t i = 0;
    for (; i + R <= rows; i += R) product<R, V>(a + i * row_a, row_a, b, c + i * row_c, row_c, depth);
    if constexpr (R > 1) {
        if (i < rows) rows_product<R / 2, V>(a + i * row_a, row_a, b, c + i * row_c, row_c, depth, rows - i);
    }
}

// Panel `panel` of c (rows, columns) = a (rows, depth) times b, which lies in panels of PANEL columns, each (depth,
// PANEL); the last may have 16.
inline void panel_product(const float *a, const float *b, float *c, int64_t rows, int64_t depth, int64_t columns,
                          int64_t panel) {
    const int64_t first = panel * PANEL;
    b += first * depth;
    c += first;
    if (columns - first >= PANEL) rows_product<ROWS, COLUMNS>(a, depth, b, c, columns, depth, rows);
    else rows_product<ROWS, 1>(a, depth, b, c, columns, depth, rows);
}

// x (B, H, W, C) -> patches (B * H * W, 9 * C) of a 3x3 convolution with zeros around the map.
template <class T, int ACT>
void patches(const T *x, const float *scale, const float *shift, float *out, int64_t images, int64_t height,
             int64_t width, int64_t channels) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < images * height * width; i++) {
        const int64_t image = i / (height * width), top = i / width % height - 1, left = i % width - 1;
        float *to = out + 9 * channels * i;
        for (int k = 0; k < 9; k++, to += channels) {
            const int64_t y = top + k / 3, z = left + k % 3;
            if (y < 0 || y >= height || z < 0 || z >= width) {
                std::memset(to, 0, channels * sizeof(float));
                continue;
            }
            const T *from = x + ((image * height + y) * width + z) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t at = image * channels + c;
                store(to + c, activate<ACT>(load(from + c), scale + at, shift + at));
            }
        }
    }
}

// Sums of x - centre and of its squares over blocks of pixels: x (pixels, C), centre (images, C) -> sums (blocks, 2, C).
template <class T>
void channel_sums(const T *x, const float *centre, float *sums, int64_t pixels, int64_t channels, int64_t blocks,
                  int64_t blocks_of_image) {
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = pixels * block / blocks, end = pixels * (block + 1) / blocks;
        const float *from = centre + block / blocks_of_image * channels;
        float *sum = sums + 2 * channels * block, *square = sum + channels;
        std::memset(sum, 0, 2 * channels * sizeof(float));
        for (int64_t i = begin; i < end; i++) {
            for (int64_t c = 0; c < channels; c += LANES) {
                const Vec value = load(x + i * channels + c) - load(from + c);
                store(sum + c, load(sum + c) + value);
                store(square + c, load(square + c) + value * value);
            }
        }
    }
}

// The whole convolution, `at_once` tiles after the other; see lafr_winograd.
template <class T, int ACT, bool DOUBLE>
void winograd(const T *x, const float *scale, const float *shift, const float *weight, const float *bias,
              const T *residual, T *out, float *scratch, int64_t images, int64_t height, int64_t width,
              int64_t channels, int64_t columns, int64_t at_once) {
    const int64_t grow = DOUBLE ? 2 : 1, tall = grow * height, wide = grow * width;
    const int64_t tiles = images * ((tall + 3) / 4) * ((wide + 3) / 4);
    const int64_t panels = (columns + PANEL - 1) / PANEL;
    float *v = scratch, *m = scratch + 36 * at_once * channels;
#pragma omp parallel
    for (int64_t first = 0; first < tiles; first += at_once) {
        const int64_t count = tiles - first < at_once ? tiles - first : at_once;
        winograd_input<T, ACT, DOUBLE>(x, scale, shift, v, count * channels, height, width, channels, first, count);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < 36 * panels; task++) {
            const int64_t plane = task / panels;
            panel_product(v + plane * count * channels, weight + plane * channels * columns,
                          m + plane * count * columns, count, channels, columns, task % panels);
        }
        winograd_output(m, bias, residual, out, count * columns, tall, wide, columns, first, count);
    }
}

template <class T, int ACT, bool DOUBLE>
void dispatch(const void *x, const float *scale, const float *shift, const float *weight, const float *bias,
              const void *residual, void *out, float *scratch, const int64_t *n) {
    winograd<T, ACT, DOUBLE>(static_cast<const T *>(x), scale, shift, weight, bias, static_cast<const T *>(residual),
                             static_cast<T *>(out), scratch, n[0], n[1], n[2], n[3], n[4], n[5]);
}

} // namespace

// `act` is as in activate(); `half` says that maps are bfloat16, else float.
#define DISPATCH(CALL)                                                                                                 \
    switch (act + (half ? 4 : 0)) {                                                                                    \
    case 0: CALL(float, 0); break;                                                                                     \
    case 1: CALL(float, 1); break;                                                                                     \
    case 2: CALL(float, 2); break;                                                                                     \
    case 3: CALL(float, 3); break;                                                                                     \
    case 4: CALL(BFloat16, 0); break;                                                                                  \
    case 5: CALL(BFloat16, 1); break;                                                                                  \
    case 6: CALL(BFloat16, 2); break;                                                                                  \
    case 7: CALL(BFloat16, 3); break;                                                                                  \
    }

extern "C" {

// Columns of the panels that weights lie in.
int64_t lafr_panel() { return PANEL; }

// x (B, H, W, C) -> out (B, H', W', O). `weight` is (36, C, O) with each plane in panels, `bias` (O), `residual` like out
// or null, `scratch` has room for 36 * at_once * (C + O) floats; sizes are B, H, W, C, O, at_once.
void lafr_winograd(const void *x, const float *scale, const float *shift, const float *weight, const float *bias,
                   const void *residual, void *out, float *scratch, const int64_t *sizes, int act, int doubled,
                   int half) {
#define CALL(T, ACT)                                                                                                   \
    if (doubled) dispatch<T, ACT, true>(x, scale, shift, weight, bias, residual, out, scratch, sizes);                 \
    else dispatch<T, ACT, false>(x, scale, shift, weight, bias, residual, out, scratch, sizes)
    DISPATCH(CALL)
#undef CALL
}

void lafr_patches(const void *x, const float *scale, const float *shift, float *out, int64_t images, int64_t height,
                  int64_t width, int64_t channels, int act, int half) {
#define CALL(T, ACT) patches<T, ACT>(static_cast<const T *>(x), scale, shift, out, images, height, width, channels)
    DISPATCH(CALL)
#undef CALL
}

void lafr_channel_sums(const void *x, const float *centre, float *sums, int64_t pixels, int64_t channels,
                       int64_t blocks, int64_t blocks_of_image, int half) {
    if (half)
        channel_sums(static_cast<const BFloat16 *>(x), centre, sums, pixels, channels, blocks, blocks_of_image);
    else
        channel_sums(static_cast<const float *>(x), centre, sums, pixels, channels, blocks, blocks_of_image);
}
}
