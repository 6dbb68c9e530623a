// Householder's method on panels, as kernels that keep the sums of several columns in registers.
#include "rows/row_panel.h"

#include "rows/column_group.h"
#include "rows/column_kernels.h"
#include "rows/copy.h"

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
void load_row_panel(View<S> from, RowPanel<S> to) {
  for (long i = 0; i < to.packs(); ++i) load_pack_rows(from, i * RowPanel<S>::kLanes, to, i);
  for (long j = to.cols; j % kGroupColumns; ++j) {
    std::fill_n(to.column(j), to.packs(), Pack<S>::zero());
  }
}

template <class S>
void store_row_panel(RowPanel<S> from, View<S> to) {
  for (long i = 0; i < from.packs(); ++i) store_pack_rows(from, i, to, i * RowPanel<S>::kLanes);
}

// Left-looking: every group of columns receives the groups of reflectors before it, then is
// factored itself.
template <class S>
void factor_row_panel(RowPanel<S> panel, S* tau, RowPanel<S> r) {
  S t[RowPanel<S>::kMostColumns / kGroupColumns][kGroupColumns][kGroupColumns];
  for (long c = 0; c < panel.cols; c += kGroupColumns) {
    for (long g = 0; g < c; g += kGroupColumns) {
      for (long p = c; p < c + kGroupColumns; p += kTargetColumns<S>) {
        reflect<kGroupColumns, kTargetColumns<S>>(panel.column(g), t[g / kGroupColumns],
                                                  panel.column(p), panel.stride,
                                                  g / RowPanel<S>::kLanes, panel.packs());
      }
    }
    ColumnGroup<S> group(panel, c, tau, r);
    const long count = std::min<long>(kGroupColumns, panel.cols - c);
    group.eliminate(count);
    if (c + count < panel.cols) group.compute_t(t[c / kGroupColumns]);
  }
}

template <class S>
void compute_gram(RowPanel<S> v, RowPanel<S> t) {
  for (long p = 0; p < v.cols; p += kTargetColumns<S>) {
    for (long g = 0; g < p + kTargetColumns<S>; g += kGroupColumns) {
      S products[kTargetColumns<S>][kGroupColumns];
      inner_products(v.column(g), v.column(p), v.stride, p / RowPanel<S>::kLanes, v.packs(),
                     products);
      for (long e = 0; e < kTargetColumns<S> * kGroupColumns; ++e) {
        t.set(g + e % kGroupColumns, p + e / kGroupColumns,
              products[e / kGroupColumns][e % kGroupColumns]);
      }
    }
  }
}

// T of a group of columns: above the group it is -T G T_g, with T of the columns before, the
// products G of these with the group, and T_g of the group itself.
template <class S>
void compute_t_factor(const S* tau, RowPanel<S> t) {
  Pack<S> space[kMostReflectors * RowPanel<S>::stride_for(kGroupColumns)];
  for (long c = 0; c < t.cols; c += kGroupColumns) {
    const long count = std::min<long>(kGroupColumns, t.cols - c);
    S products[kGroupColumns][kGroupColumns], own[kGroupColumns][kGroupColumns] = {};
    for (long p = 0; p < count; ++p) {
      for (long q = 0; q < p; ++q) products[p][q] = t.get(c + q, c + p);
    }
    compute_group_t(tau + c, products, own, count);
    const RowPanel<S> weights(space, kGroupColumns, c);  // G T_g, by rows
    for (long k = 0; k < c; ++k) {
      for (int p = 0; p < kGroupColumns; ++p) {
        S total = 0;
        for (int q = 0; q <= p; ++q) total += product(t.get(k, c + q), own[p][q]);
        weights.set(p, k, total);
      }
    }
    for (long i = 0; i < t.packs(); ++i) {
      const long before = std::min(c, i * RowPanel<S>::kLanes);  // T is zero there
      combine_packs<kGroupColumns, true, false>(t.column(before) + i, t.stride,
                                                weights.entry(0, before), weights.stride,
                                                c - before, t.column(c) + i, t.stride);
    }
    for (long p = 0; p < count; ++p) {
      for (long q = 0; q <= p; ++q) t.set(c + q, c + p, own[p][q]);
    }
  }
}

template <class S>
void multiply_triangle(RowPanel<S> u, [[maybe_unused]] bool conjugated, RowPanel<S> x,
                       RowPanel<S> to) {
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
void store_product(RowPanel<S> v, RowPanel<S> z, View<S> q) {
  Pack<S> line[RowPanel<S>::kMostColumns];
  const RowPanel<S> row(line, RowPanel<S>::kLanes, v.cols);
  for (long i = 0; i < v.packs(); ++i) {
    const long inner = std::min(v.cols, (i + 1) * RowPanel<S>::kLanes);  // V is zero above
    for_columns<S>(v.cols, [&](long c, auto width) {
      combine_packs<decltype(width)::value, true, false>(v.data + i, v.stride, z.entry(c, 0),
                                                         z.stride, inner, line + c, 1);
    });
    store_pack_rows(row, 0, q, i * RowPanel<S>::kLanes);
  }
}

#define INSTANTIATE(S, NAME)                                                       \
  template void load_row_panel<S>(View<S>, RowPanel<S>);                           \
  template void store_row_panel<S>(RowPanel<S>, View<S>);                          \
  template void factor_row_panel<S>(RowPanel<S>, S*, RowPanel<S>);                 \
  template void compute_gram<S>(RowPanel<S>, RowPanel<S>);                         \
  template void compute_t_factor<S>(const S*, RowPanel<S>);                        \
  template void multiply_triangle<S>(RowPanel<S>, bool, RowPanel<S>, RowPanel<S>); \
  template void store_product<S>(RowPanel<S>, RowPanel<S>, View<S>);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
