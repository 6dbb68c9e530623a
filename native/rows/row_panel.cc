// Householder's method on panels, as kernels that keep the sums of several columns in registers.
#include "rows/row_panel.h"

#include "rows/copy.h"
#include "rows/column_group.h"
#include "rows/column_kernels.h"

namespace jaxqr {
namespace {

// ------------------------------------------------------------------------------- small products

// Columns of a product that are summed in registers together, and where fewer are left.
template <class S>
constexpr int kWide = kRegisters / (2 * kParts<S>);
constexpr int kNarrow = 4;

// to[q * to_stride] = minus or plus the sum of z(q, k) x_k over k < inner, for one pack of the x_k;
// z(0, k) is at z, and z(0, k + 1) is z_stride packs on.
template <int Count, bool kMinus, bool kConjugate, class S>
JAXQR_INLINE void combine_packs(const Pack<S>* x, long x_stride, const RealOf<S>* z, long z_stride,
                                long inner, Pack<S>* to, long to_stride) {
  constexpr long lanes = kWidth<RealOf<S>>;
  Pack<S> total[Count];
  JAXQR_UNROLL
  for (int q = 0; q < Count; ++q) total[q] = Pack<S>::zero();
  for (long k = 0; k < inner; ++k) {
    const Pack<S> y = x[k * x_stride];
    JAXQR_UNROLL
    for (int q = 0; q < Count; ++q) {
      const RealOf<S>* entry = z + q / lanes * lanes * kParts<S> + q % lanes;
      Pack<S> factor;
      factor.re = broadcast(entry[0]);
      if constexpr (kIsComplex<S>) factor.im = broadcast(entry[lanes]);
      if constexpr (kMinus) {
        subtract_product(total[q], factor, y);
      } else if constexpr (kConjugate) {
        add_adjoint_product(total[q], factor, y);
      } else {
        add_product(total[q], factor, y);
      }
    }
    z += z_stride * lanes * kParts<S>;
  }
  JAXQR_UNROLL
  for (int q = 0; q < Count; ++q) to[q * to_stride] = total[q];
}

// Call body(c, width) for the columns from c on, `width` at a time, which is a constant.
template <class S, class Body>
JAXQR_INLINE void for_columns(long cols, Body body) {
  for (long c = 0; c < cols;) {
    if (cols - c > kNarrow) {
      body(c, std::integral_constant<int, kWide<S>>{});
      c += kWide<S>;
    } else {
      body(c, std::integral_constant<int, kNarrow>{});
      c += kNarrow;
    }
  }
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
void factor_panel(Panel<S> panel, S* tau, Panel<S> r) {
  S t[Panel<S>::kMostColumns / kGroup][kGroup][kGroup];
  for (long c = 0; c < panel.cols; c += kGroup) {
    for (long g = 0; g < c; g += kGroup) {
      for (long p = c; p < c + kGroup; p += kColumns<S>) {
        reflect<kGroup, kColumns<S>>(panel.column(g), t[g / kGroup], panel.column(p),
                                     panel.stride, g / Panel<S>::kLanes, panel.packs());
      }
    }
    PanelGroup<S> group(panel, c, tau, r);
    const long count = std::min<long>(kGroup, panel.cols - c);
    group.eliminate(count);
    if (c + count < panel.cols) group.triangular_factor(t[c / kGroup]);
  }
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

// T of a group of columns: above the group it is -T G T_g, with T of the columns before, the
// products G of these with the group, and T_g of the group itself.
template <class S>
void triangular_factor(const S* tau, Panel<S> t) {
  Pack<S> space[kMostReflectors * Panel<S>::stride_for(kGroup)];
  for (long c = 0; c < t.cols; c += kGroup) {
    S own[kGroup][kGroup] = {};  // by columns
    for (int p = 0; p < kGroup && c + p < t.cols; ++p) {
      for (int q = 0; q < p; ++q) {
        S total = 0;
        for (int l = q; l < p; ++l) total += product(own[l][q], t.get(c + l, c + p));
        own[p][q] = -product(tau[c + p], total);
      }
      own[p][p] = tau[c + p];
    }
    const Panel<S> weights(space, kGroup, c);  // G T_g, by rows
    for (long k = 0; k < c; ++k) {
      for (int p = 0; p < kGroup; ++p) {
        S total = 0;
        for (int q = 0; q <= p; ++q) total += product(t.get(k, c + q), own[p][q]);
        weights.set(p, k, total);
      }
    }
    for (long i = 0; i < t.packs(); ++i) {
      const long before = std::min(c, i * Panel<S>::kLanes);  // T is zero there
      combine_packs<kGroup, true, false>(t.column(before) + i, t.stride, weights.entry(0, before),
                                         weights.stride, c - before, t.column(c) + i, t.stride);
    }
    for (int p = 0; p < kGroup && c + p < t.cols; ++p) {
      for (int q = 0; q <= p; ++q) t.set(c + q, c + p, own[p][q]);
    }
  }
}

template <class S>
void multiply_triangle(Panel<S> u, [[maybe_unused]] bool conjugated, Panel<S> x, Panel<S> to) {
  for (long i = 0; i < x.packs(); ++i) {
    for_columns<S>(u.cols, [&](long c, auto width) {
      const Pack<S>* from = x.column(c) + i;
      const RealOf<S>* z = u.entry(c, c);
      if constexpr (kIsComplex<S>) {
        if (conjugated) {
          return combine_packs<decltype(width)::value, false, true>(
              from, x.stride, z, u.stride, u.cols - c, to.column(c) + i, to.stride);
        }
      }
      combine_packs<decltype(width)::value, false, false>(from, x.stride, z, u.stride, u.cols - c,
                                                          to.column(c) + i, to.stride);
    });
  }
}

// This goes row by row of packs, through a line of all columns: rows in memory want them together.
template <class S>
void store_product(Panel<S> v, Panel<S> z, View<S> q) {
  Pack<S> line[Panel<S>::kMostColumns];
  const Panel<S> row(line, Panel<S>::kLanes, v.cols);
  for (long i = 0; i < v.packs(); ++i) {
    const long inner = std::min(v.cols, (i + 1) * Panel<S>::kLanes);  // V is zero above
    for_columns<S>(v.cols, [&](long c, auto width) {
      combine_packs<decltype(width)::value, true, false>(v.data + i, v.stride, z.entry(c, 0),
                                                         z.stride, inner, line + c, 1);
    });
    store_pack_rows(row, 0, q, i * Panel<S>::kLanes);
  }
}

#define INSTANTIATE(S)                                              \
  template void load_panel<S>(View<S>, Panel<S>);                         \
  template void store_panel<S>(Panel<S>, View<S>);                        \
  template void factor_panel<S>(Panel<S>, S*, Panel<S>);            \
  template void gram<S>(Panel<S>, Panel<S>);                        \
  template void triangular_factor<S>(const S*, Panel<S>);           \
  template void multiply_triangle<S>(Panel<S>, bool, Panel<S>, Panel<S>); \
  template void store_product<S>(Panel<S>, Panel<S>, View<S>);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
