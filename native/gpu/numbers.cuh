// Real and complex numbers in kernels: arithmetic, powers of two, exchange within a warp.
#pragma once

#define JAXQR_FN __device__ __forceinline__

namespace jaxqr {

template <class R>
struct alignas(2 * sizeof(R)) Complex {
  R re, im;
};

template <class T>
struct RealOf {
  using Type = T;
};
template <class R>
struct RealOf<Complex<R>> {
  using Type = R;
};
template <class T>
using Real = typename RealOf<T>::Type;
template <class T>
constexpr bool kIsComplex = sizeof(T) != sizeof(Real<T>);

// ---------------------------------------------------------------------------------- parts

template <class R>
JAXQR_FN R real_part(R x) {
  return x;
}
template <class R>
JAXQR_FN R real_part(Complex<R> x) {
  return x.re;
}
template <class R>
JAXQR_FN R imaginary_part(R) {
  return 0;
}
template <class R>
JAXQR_FN R imaginary_part(Complex<R> x) {
  return x.im;
}
template <class R>
JAXQR_FN R conjugate(R x) {
  return x;
}
template <class R>
JAXQR_FN Complex<R> conjugate(Complex<R> x) {
  return {x.re, -x.im};
}
// The number that has this real part.
template <class T>
JAXQR_FN T number(Real<T> x) {
  if constexpr (kIsComplex<T>) {
    return T{x, 0};
  } else {
    return x;
  }
}

// ----------------------------------------------------------------------------- arithmetic

template <class R>
JAXQR_FN Complex<R> operator+(Complex<R> x, Complex<R> y) {
  return {x.re + y.re, x.im + y.im};
}
template <class R>
JAXQR_FN Complex<R> operator-(Complex<R> x, Complex<R> y) {
  return {x.re - y.re, x.im - y.im};
}
template <class R>
JAXQR_FN Complex<R> operator-(Complex<R> x) {
  return {-x.re, -x.im};
}
template <class R>
JAXQR_FN Complex<R> operator*(Complex<R> x, Complex<R> y) {
  return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
}
template <class R>
JAXQR_FN R scale_by(R x, R s) {
  return x * s;
}
template <class R>
JAXQR_FN Complex<R> scale_by(Complex<R> x, R s) {
  return {x.re * s, x.im * s};
}

template <class R>
JAXQR_FN R divide_by_real(R x, R y) {
  return x / y;
}
template <class R>
JAXQR_FN Complex<R> divide_by_real(Complex<R> x, R y) {
  return {x.re / y, x.im / y};
}

// sum + x y, sum - x y and sum + conj(x) y, written so that they become fused multiply-adds alone.
template <class R>
JAXQR_FN R add_product(R sum, R x, R y) {
  return sum + x * y;
}
template <class R>
JAXQR_FN Complex<R> add_product(Complex<R> sum, Complex<R> x, Complex<R> y) {
  return {(sum.re + x.re * y.re) - x.im * y.im, (sum.im + x.re * y.im) + x.im * y.re};
}
template <class R>
JAXQR_FN R subtract_product(R sum, R x, R y) {
  return sum - x * y;
}
template <class R>
JAXQR_FN Complex<R> subtract_product(Complex<R> sum, Complex<R> x, Complex<R> y) {
  return {(sum.re - x.re * y.re) + x.im * y.im, (sum.im - x.re * y.im) - x.im * y.re};
}
template <class R>
JAXQR_FN R add_conjugate_product(R sum, R x, R y) {
  return sum + x * y;
}
template <class R>
JAXQR_FN Complex<R> add_conjugate_product(Complex<R> sum, Complex<R> x, Complex<R> y) {
  return {(sum.re + x.re * y.re) + x.im * y.im, (sum.im + x.re * y.im) - x.im * y.re};
}
template <class R>
JAXQR_FN R add_square(R sum, R x) {
  return sum + x * x;
}
template <class R>
JAXQR_FN R add_square(R sum, Complex<R> x) {
  return (sum + x.re * x.re) + x.im * x.im;
}

template <class R>
JAXQR_FN R larger(R x, R y) {
  return x > y ? x : y;
}
JAXQR_FN float magnitude(float x) { return fabsf(x); }
JAXQR_FN double magnitude(double x) { return fabs(x); }
// The larger magnitude of the two parts: it has the exponent, and neither overflows nor underflows.
template <class R>
JAXQR_FN R magnitude(Complex<R> x) {
  return larger(magnitude(x.re), magnitude(x.im));
}
JAXQR_FN float square_root(float x) { return sqrtf(x); }
JAXQR_FN double square_root(double x) { return sqrt(x); }
// The absolute value, of numbers whose squares stay in range.
template <class R>
JAXQR_FN R absolute_value(R x) {
  return magnitude(x);
}
template <class R>
JAXQR_FN R absolute_value(Complex<R> x) {
  return square_root(add_square(R(0), x));
}
template <class R>
JAXQR_FN R invert(R x) {
  return R(1) / x;
}
// Smith's division, as |x|^2 may leave the range.
template <class R>
JAXQR_FN Complex<R> invert(Complex<R> x) {
  const R size = magnitude(x), re = x.re / size, im = x.im / size;
  const R square = size * (re * re + im * im);
  return {re / square, -im / square};
}
// Zero for a finite number, NaN for any other.
template <class R>
JAXQR_FN R zero_or_nan(R x) {
  return x * R(0);
}
template <class R>
JAXQR_FN R zero_or_nan(Complex<R> x) {
  return x.re * R(0) + x.im * R(0);
}

// --------------------------------------------------------------------------- powers of two

template <class R>
struct Bits;
template <>
struct Bits<float> {
  using Word = unsigned;
  static constexpr int kMantissa = 23, kBias = 127;
};
template <>
struct Bits<double> {
  using Word = unsigned long long;
  static constexpr int kMantissa = 52, kBias = 1023;
};

template <class R>
JAXQR_FN int biased_exponent(R x) {
  union {
    R number;
    typename Bits<R>::Word word;
  } bits = {x};
  return static_cast<int>(bits.word >> Bits<R>::kMantissa) & (2 * Bits<R>::kBias + 1);
}

// Whether the sign is negative, also that of a zero.
template <class R>
JAXQR_FN bool is_negative(R x) {
  union {
    R number;
    typename Bits<R>::Word word;
  } bits = {x};
  return bits.word >> (8 * sizeof(R) - 1);
}

// 2^exponent, of an exponent that a normal number has.
template <class R>
JAXQR_FN R power_of_two(int exponent) {
  union {
    typename Bits<R>::Word word;
    R number;
  } bits = {static_cast<typename Bits<R>::Word>(exponent + Bits<R>::kBias) << Bits<R>::kMantissa};
  return bits.number;
}

// The exponent of a power of two near 1 / x, which like its reciprocal is a normal number; 0 for
// zero. The exponent of NaN is of no use, but in range.
template <class R>
JAXQR_FN int inverse_exponent(R x) {
  constexpr int kBias = Bits<R>::kBias;
  if (x == 0) return 0;
  const int biased = biased_exponent(x);
  const int normal = biased < 1 ? 1 : biased > 2 * kBias - 1 ? 2 * kBias - 1 : biased;
  return kBias - normal;
}

// Below this a sum of squares may have lost terms: they matter from 1e-10 of it on.
template <class R>
constexpr R kLeastSum = 0;
template <>
constexpr float kLeastSum<float> = 0x1p-90f;
template <>
constexpr double kLeastSum<double> = 0x1p-900;

template <class R>
constexpr R kEpsilon = 0;
template <>
constexpr float kEpsilon<float> = 0x1p-23f;
template <>
constexpr double kEpsilon<double> = 0x1p-52;

// What rounding may leave of a dependent column beside the sum of magnitudes in its column of R.
template <class R>
constexpr R kTolerance = 64 * kEpsilon<R>;

template <class R>
JAXQR_FN R not_a_number() {
  return R(0) / R(0);
}

// ------------------------------------------------------------------- exchange within a warp

constexpr unsigned kWarp = 0xffffffffu;

// The value that `lane` of this thread's group of `width` threads has. All of the warp take part.
template <class R>
JAXQR_FN R take_from(R x, int lane, int width = 32) {
  return __shfl_sync(kWarp, x, lane, width);
}
template <class R>
JAXQR_FN Complex<R> take_from(Complex<R> x, int lane, int width = 32) {
  return {__shfl_sync(kWarp, x.re, lane, width), __shfl_sync(kWarp, x.im, lane, width)};
}
// The value of the thread whose lane differs in the bits of `mask`.
template <class R>
JAXQR_FN R take_across(R x, int mask) {
  return __shfl_xor_sync(kWarp, x, mask);
}
template <class R>
JAXQR_FN Complex<R> take_across(Complex<R> x, int mask) {
  return {__shfl_xor_sync(kWarp, x.re, mask), __shfl_xor_sync(kWarp, x.im, mask)};
}

}  // namespace jaxqr
