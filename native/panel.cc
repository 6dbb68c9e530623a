// Householder's method on panels, as kernels that keep the sums of several columns in registers.
#include "panel.h"

#include <cmath>

#include "panel_copy.h"
#include "range.h"

namespace jaxqr {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// Reflectors that are applied together, and the columns that they are applied to: their products
// take half of the registers.
constexpr int kGroup = Panel<float>::kGroup;
template <class S>
constexpr int kColumns = kRegisters / (2 * kGroup * kParts<S>);

// y += factor x
template <class S>
JAXQR_INLINE void add_multiple(Pack<S>* y, S factor, const Pack<S>* x, long packs) {
  const Pack<S> f = spread(factor);
  for (long i = 0; i < packs; ++i) add_product(y[i], f, x[i]);
}

// ------------------------------------------------------------------------------- inner products

template <class T, int Step, int... Lane>
JAXQR_INLINE Vector<T> fold(Vector<T> a, Vector<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int width = kWidth<T>;
  return __builtin_shufflevector(a, b, ((Lane & Step) ? width + Lane - Step : Lane)...) +
         __builtin_shufflevector(a, b, ((Lane & Step) ? width + Lane : Lane + Step)...);
}

// Lane l of the result is the sum of rows[l].
template <class T, int Step = kWidth<T> / 2>
JAXQR_INLINE Vector<T> sums(Vector<T>* rows) {
  JAXQR_UNROLL
  for (int i = 0; i < Step; ++i) {
    rows[i] = fold<T, Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, kWidth<T>>{});
  }
  if constexpr (Step > 1) {
    return sums<T, Step / 2>(rows);
  } else {
    return rows[0];
  }
}

// w[p][a] = v_a^H c_p over the packs from `first` on, of columns `stride` apart.
template <int K, int P, class S>
JAXQR_INLINE void inner_products(const Pack<S>* v, const Pack<S>* c, long stride, long first,
                                 long last, S (&w)[P][K]) {
  using T = RealOf<S>;
  constexpr int count = P * K * kParts<S>, width = kWidth<T>;
  Pack<S> sums_of[P][K];
  JAXQR_UNROLL
  for (int e = 0; e < P * K; ++e) sums_of[e / K][e % K] = Pack<S>::zero();
  for (long i = first; i < last; ++i) {
    Pack<S> x[K];
    JAXQR_UNROLL
    for (int a = 0; a < K; ++a) x[a] = v[a * stride + i];
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      const Pack<S> y = c[p * stride + i];
      JAXQR_UNROLL
      for (int a = 0; a < K; ++a) add_adjoint_product(sums_of[p][a], x[a], y);
    }
  }
  Vector<T>* parts = reinterpret_cast<Vector<T>*>(sums_of);
  T* to = reinterpret_cast<T*>(w);
  if constexpr (count % width == 0) {
    JAXQR_UNROLL
    for (int e = 0; e < count; e += width) store_unaligned(to + e, sums<T>(parts + e));
  } else {
    JAXQR_UNROLL
    for (int e = 0; e < count; ++e) to[e] = sum<T>(parts[e]);
  }
}

// c_p -= sum of z[p][a] v_a
template <int K, int P, class S>
JAXQR_INLINE void subtract_combinations(const Pack<S>* v, const S (&z)[P][K], Pack<S>* c,
                                        long stride, long first, long last) {
  Pack<S> factor[P][K];
  JAXQR_UNROLL
  for (int e = 0; e < P * K; ++e) factor[e / K][e % K] = spread(z[e / K][e % K]);
  for (long i = first; i < last; ++i) {
    Pack<S> x[K];
    JAXQR_UNROLL
    for (int a = 0; a < K; ++a) x[a] = v[a * stride + i];
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      Pack<S> y = c[p * stride + i];
      JAXQR_UNROLL
      for (int a = 0; a < K; ++a) subtract_product(y, x[a], factor[p][a]);
      c[p * stride + i] = y;
    }
  }
}

// C := (I - V T V^H)^H C, on P columns; T by columns.
template <int K, int P, class S>
JAXQR_INLINE void reflect(const Pack<S>* v, const S (&t)[K][K], Pack<S>* c, long stride,
                          long first, long last) {
  S w[P][K], z[P][K];
  inner_products(v, c, stride, first, last, w);
  JAXQR_UNROLL
  for (int p = 0; p < P; ++p) {
    JAXQR_UNROLL
    for (int a = 0; a < K; ++a) {
      z[p][a] = 0;
      JAXQR_UNROLL
      for (int b = 0; b <= a; ++b) z[p][a] += product(conjugate(t[a][b]), w[p][b]);
    }
  }
  subtract_combinations(v, z, c, stride, first, last);
}

// --------------------------------------------------------------------------- a group of columns

template <class S>
struct Elimination {
  S tau;
  RealOf<S> beta;
  bool exact;  // no squares were lost
};

template <class S>
bool is_zero(const Pack<S>* x, long first, long last) {
  const RealOf<S>* parts = reinterpret_cast<const RealOf<S>*>(x + first);
  return largest_magnitude(parts, (last - first) * kParts<S> * kWidth<RealOf<S>>) == 0;
}

// The reflector that annihilates column j below its entry j; the column becomes its vector.
template <class S>
Elimination<S> eliminate(Panel<S> panel, long j) {
  using T = RealOf<S>;
  Pack<S>* x = panel.column(j);
  const long first = j / Panel<S>::kLanes, last = panel.packs();
  const S alpha = panel.get(j, j);
  panel.set(j, j, 0);
  Vector<T> even{}, odd{};
  long i = first;
  for (; i + 2 <= last; i += 2) {
    even += abs2(x[i]);
    odd += abs2(x[i + 1]);
  }
  if (i < last) even += abs2(x[i]);
  const T re = std::real(alpha), im = std::imag(alpha);
  const T rest = sum<T>(even + odd) + im * im, squares = rest + re * re;
  const bool exact = squares >= kLeastSquare<T>;
  if ((rest == 0 || !exact) && im == 0 && is_zero(x, first, last)) {
    panel.set(j, j, 1);
    return {0, re, true};
  }
  const T beta = -std::copysign(std::sqrt(squares), re);
  const S difference = alpha - beta;  // of numbers of opposite sign
  S inverse, tau = -difference / beta;
  if constexpr (kIsComplex<S>) {
    inverse = std::conj(difference) / std::norm(difference);
  } else {
    inverse = 1 / difference;
  }
  const Pack<S> factor = spread(inverse);
  for (i = first; i < last; ++i) x[i] = x[i] * factor;
  panel.set(j, j, 1);
  return {tau, beta, exact};
}

// Move the entries of a column above its diagonal to R's.
template <class S>
void move_above(Panel<S> panel, long j, Panel<S> r) {
  const long packs = j / Panel<S>::kLanes;
  for (long i = 0; i < packs; ++i) {
    r.column(j)[i] = panel.column(j)[i];
    panel.column(j)[i] = Pack<S>::zero();
  }
  for (long i = packs * Panel<S>::kLanes; i < j; ++i) {
    r.set(i, j, panel.get(i, j));
    panel.set(i, j, 0);
  }
}

// Factor up to kGroup columns from column c on, whose earlier reflectors have been applied.
template <class S>
bool factor_group(Panel<S> panel, long c, long count, S* tau, Panel<S> r) {
  bool exact = true;
  for (long j = c; j < c + count; ++j) {
    move_above(panel, j, r);
    const Elimination<S> step = eliminate(panel, j);
    tau[j] = step.tau;
    r.set(j, j, step.beta);
    exact &= step.exact;
    const S t[1][1] = {{step.tau}};
    const long first = j / Panel<S>::kLanes, last = panel.packs(), stride = panel.stride;
    const Pack<S>* v = panel.column(j);
    switch (c + count - 1 - j) {
      case 3:
        reflect<1, 3>(v, t, panel.column(j + 1), stride, first, last);
        break;
      case 2:
        reflect<1, 2>(v, t, panel.column(j + 1), stride, first, last);
        break;
      case 1:
        reflect<1, 1>(v, t, panel.column(j + 1), stride, first, last);
        break;
    }
  }
  return exact;
}

// T of a group of reflectors, by columns.
template <class S>
void group_factor(Panel<S> panel, long c, const S* tau, S (&t)[kGroup][kGroup]) {
  const Pack<S>* v = panel.column(c);
  S products[kGroup][kGroup];
  for (int p = 0; p < kGroup; p += kColumns<S>) {
    S(&some)[kColumns<S>][kGroup] = reinterpret_cast<S(&)[kColumns<S>][kGroup]>(products[p]);
    inner_products(v, v + p * panel.stride, panel.stride, c / Panel<S>::kLanes, panel.packs(),
                   some);
  }
  for (int p = 0; p < kGroup; ++p) {
    for (int q = 0; q < p; ++q) {
      S sum = 0;
      for (int l = q; l < p; ++l) sum += product(t[l][q], products[p][l]);
      t[p][q] = -product(tau[c + p], sum);
    }
    t[p][p] = tau[c + p];
  }
}

// ------------------------------------------------------------------------------- small products

// Columns of a product that are summed in registers together, and where fewer are left.
template <class S>
constexpr int kWide = kRegisters / (2 * kParts<S>);
constexpr int kNarrow = 4;

// to[q] = -sum of v_k z[k][q] over k, for one pack of the v_k; row k of z is `z_stride` packs on.
template <int Count, class S>
JAXQR_INLINE void combine_rows(const Pack<S>* v, long stride, const RealOf<S>* z, long z_stride,
                               long inner, Pack<S>* to) {
  constexpr long lanes = kWidth<RealOf<S>>;
  Pack<S> sum[Count];
  JAXQR_UNROLL
  for (int q = 0; q < Count; ++q) sum[q] = Pack<S>::zero();
  for (long k = 0; k < inner; ++k) {
    const Pack<S> x = v[k * stride];
    JAXQR_UNROLL
    for (int q = 0; q < Count; ++q) {
      const RealOf<S>* entry = z + q / lanes * lanes * kParts<S> + q % lanes;
      Pack<S> factor;
      factor.re = broadcast(entry[0]);
      if constexpr (kIsComplex<S>) factor.im = broadcast(entry[lanes]);
      subtract_product(sum[q], x, factor);
    }
    z += z_stride * lanes * kParts<S>;
  }
  JAXQR_UNROLL
  for (int q = 0; q < Count; ++q) to[q] = sum[q];
}

}  // namespace

template <class S>
void load_panel(View<S> from, Panel<S> to) {
  for (long i = 0; i < to.packs(); ++i) load_pack_rows(from, i * Panel<S>::kLanes, to, i);
  for (long j = to.cols; j % kGroup; ++j) {
    std::fill_n(to.column(j), to.packs(), Pack<S>::zero());
  }
}

template <class S>
void store_panel(Panel<S> from, View<S> to) {
  for (long i = 0; i < from.packs(); ++i) store_pack_rows(from, i, to, i * Panel<S>::kLanes);
}

// Left-looking: every group of columns receives the groups of reflectors before it, then is
// factored itself.
template <class S>
bool factor_panel(Panel<S> panel, S* tau, Panel<S> r) {
  S t[Panel<S>::kMostColumns / kGroup][kGroup][kGroup];
  bool exact = true;
  for (long c = 0; c < panel.cols; c += kGroup) {
    for (long g = 0; g < c; g += kGroup) {
      for (long p = c; p < c + kGroup; p += kColumns<S>) {
        reflect<kGroup, kColumns<S>>(panel.column(g), t[g / kGroup], panel.column(p),
                                     panel.stride, g / Panel<S>::kLanes, panel.packs());
      }
    }
    const long count = std::min<long>(kGroup, panel.cols - c);
    exact &= factor_group(panel, c, count, tau, r);
    if (c + count < panel.cols) group_factor(panel, c, tau, t[c / kGroup]);
  }
  return exact;
}

template <class S>
void gram(Panel<S> v, Panel<S> t) {
  for (long p = 0; p < v.cols; p += kColumns<S>) {
    for (long g = 0; g < p + kColumns<S>; g += kGroup) {
      S products[kColumns<S>][kGroup];
      inner_products(v.column(g), v.column(p), v.stride, p / Panel<S>::kLanes, v.packs(),
                     products);
      for (long e = 0; e < kColumns<S> * kGroup; ++e) {
        t.set(g + e % kGroup, p + e / kGroup, products[e / kGroup][e % kGroup]);
      }
    }
  }
}

template <class S>
void triangular_factor(const S* tau, Panel<S> t) {
  S products[kMostReflectors];
  for (long j = 0; j < t.cols; ++j) {
    Pack<S>* column = t.column(j);
    for (long c = 0; c < j; ++c) products[c] = -product(tau[j], t.get(c, j));
    for (long i = 0; i < t.packs(); ++i) column[i] = Pack<S>::zero();
    for (long c = 0; c < j; ++c) {
      add_multiple(column, products[c], t.column(c), c / Panel<S>::kLanes + 1);
    }
    t.set(j, j, tau[j]);
  }
}

template <class S>
void project(Panel<S> v, Panel<S> t, Panel<S> c) {
  const long n = v.cols, packs = c.packs();
  for (long p = 0; p < n; ++p) {  // V1^H, unit upper triangular: row by row in place
    for (long i = p + 1; i < n; ++i) {
      add_multiple(c.column(p), conjugate(v.get(i, p)), c.column(i), packs);
    }
  }
  for (long p = 0; p < n; ++p) {
    const Pack<S> tau = spread(t.get(p, p));
    for (long i = 0; i < packs; ++i) c.column(p)[i] = tau * c.column(p)[i];
    for (long l = p + 1; l < n; ++l) add_multiple(c.column(p), t.get(p, l), c.column(l), packs);
  }
}

// Q := -V Z goes row by row of packs, through a line of all columns: rows in memory want them
// together.
template <class S>
void store_product(Panel<S> v, Panel<S> z, View<S> q) {
  Pack<S> line[Panel<S>::kMostColumns];
  Panel<S> row(line, Panel<S>::kLanes, v.cols);
  for (long i = 0; i < v.packs(); ++i) {
    const long inner = std::min(v.cols, (i + 1) * Panel<S>::kLanes);  // V is zero above
    for (long c = 0; c < v.cols;) {
      if (v.cols - c > kNarrow) {
        combine_rows<kWide<S>>(v.data + i, v.stride, z.entry(c, 0), z.stride, inner, line + c);
        c += kWide<S>;
      } else {
        combine_rows<kNarrow>(v.data + i, v.stride, z.entry(c, 0), z.stride, inner, line + c);
        c += kNarrow;
      }
    }
    store_pack_rows(row, 0, q, i * Panel<S>::kLanes);
  }
}

#define INSTANTIATE(S)                                              \
  template void load_panel<S>(View<S>, Panel<S>);                         \
  template void store_panel<S>(Panel<S>, View<S>);                        \
  template bool factor_panel<S>(Panel<S>, S*, Panel<S>);            \
  template void gram<S>(Panel<S>, Panel<S>);                        \
  template void triangular_factor<S>(const S*, Panel<S>);           \
  template void project<S>(Panel<S>, Panel<S>, Panel<S>);           \
  template void store_product<S>(Panel<S>, Panel<S>, View<S>);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
