// Products of Q with few columns, by rows: every entry of the reflectors is used a few times only,
// so what counts is how they are read.
//
// The reflectors are taken in bundles, which fill a few vectors in each row. In one pass over the
// rows the products of the last bundle are taken off and those of the next one are gathered, with
// its Gram matrix: from it the products of the bundle's reflectors follow one after the other, as
// each would have met what those before it left.
#include <vector>

#include "common/interleave.h"
#include "common/problems.h"
#include "common/scalars.h"
#include "kernels.h"

namespace jaxqr {
namespace {

template <class S, int Columns>
class FewColumns {
  using T = RealOf<S>;
  static constexpr int kLanes = kWidth<T>;
  static constexpr int kPacks = kLanes < 8 ? 8 / kLanes : 1;
  static constexpr int kReflectors = kPacks * kLanes;  // of a bundle

  // Of a bundle: V^H V above its diagonal, and V^H C.
  struct Sums {
    Pack<S> gram[kReflectors][kPacks], products[Columns][kPacks];
  };

 public:
  // `c` is overwritten.
  FewColumns(const ApplyProblem<S>& problem, S* c)
      : h_(problem.h),
        tau_(problem.tau),
        c_(c),
        m_(problem.m),
        k_(problem.k),
        adjoint_(problem.adjoint) {}

  void run(Pool& pool) {
    const long bundles = ceil_divide(k_, kReflectors);
    long last = -1;
    for (long i = 0; i < bundles; ++i) {
      const long next = (adjoint_ ? i : bundles - 1 - i) * kReflectors;
      Sums sums;
      pass(pool, last, next, &sums);
      find_weights(next, sums);
      last = next;
    }
    if (last >= 0) pass(pool, last, -1, nullptr);
  }

 private:
  // All rows: take off the products of the bundle from column `last` on, and gather those of the
  // bundle from `next` on; -1 for none.
  void pass(Pool& pool, long last, long next, Sums* sums) const {
    constexpr long kWork = 1 << 16;  // entries that outweigh waking up a thread
    const long first = last < 0 ? next : next < 0 ? last : std::min(last, next);
    const long rows = m_ - first;
    const long ranges = std::max(1L, std::min(thread_count(pool), rows * kReflectors / kWork));
    if (ranges == 1) return visit(first, m_, last, next, sums);
    std::vector<Sums> parts(ranges);
    parallel_for(pool, ranges, [&](long r) {
      visit(first + rows * r / ranges, first + rows * (r + 1) / ranges, last, next, &parts[r]);
    });
    if (!sums) return;
    *sums = parts[0];
    for (long r = 1; r < ranges; ++r) {
      for (int q = 0; q < kPacks; ++q) {
        for (int a = 0; a < kReflectors; ++a) {
          sums->gram[a][q] = sums->gram[a][q] + parts[r].gram[a][q];
        }
        for (int l = 0; l < Columns; ++l) {
          sums->products[l][q] = sums->products[l][q] + parts[r].products[l][q];
        }
      }
    }
  }

  void visit(long begin, long end, long last, long next, Sums* sums) const {
    if (last >= 0) {
      next >= 0 ? visit_rows<true, true>(begin, end, last, next, sums)
                : visit_rows<true, false>(begin, end, last, next, sums);
    } else {
      visit_rows<false, true>(begin, end, last, next, sums);
    }
  }

  // The rows [begin, end) of a pass. The sums are local arrays, which stay in registers.
  template <bool TakeOff, bool Gather>
  void visit_rows(long begin, long end, long last, long next, Sums* sums) const {
    Pack<S> gram[kReflectors][kPacks], products[Columns][kPacks];
    JAXQR_UNROLL
    for (int q = 0; q < kPacks; ++q) {
      JAXQR_UNROLL
      for (int a = 0; a < kReflectors; ++a) gram[a][q] = Pack<S>::zero();
      JAXQR_UNROLL
      for (int l = 0; l < Columns; ++l) products[l][q] = Pack<S>::zero();
    }
    S buffer[kReflectors];
    for (long i = begin; i < end; ++i) {
      S* c = c_ + i * Columns;
      if constexpr (TakeOff) take_off(reflectors(last, i, buffer), c);
      if constexpr (Gather) gather_row(reflectors(next, i, buffer), c, gram, products);
    }
    if constexpr (Gather) {
      JAXQR_UNROLL
      for (int q = 0; q < kPacks; ++q) {
        JAXQR_UNROLL
        for (int a = 0; a < kReflectors; ++a) sums->gram[a][q] = gram[a][q];
        JAXQR_UNROLL
        for (int l = 0; l < Columns; ++l) sums->products[l][q] = products[l][q];
      }
    }
  }

  // c -= v weights, in one row.
  JAXQR_INLINE void take_off(const S* v, S* c) const {
    JAXQR_UNROLL
    for (int l = 0; l < Columns; ++l) {
      Pack<S> sum = Pack<S>::zero();
      JAXQR_UNROLL
      for (int q = 0; q < kPacks; ++q) {
        add_product(sum, load_numbers(v + q * kLanes), weights_[l][q]);
      }
      c[l] -= jaxqr::sum(sum);
    }
  }

  // gram += v^H v above its diagonal, and products += v^H c, of one row.
  static JAXQR_INLINE void gather_row(const S* v, const S* c, Pack<S> (&gram)[kReflectors][kPacks],
                                      Pack<S> (&products)[Columns][kPacks]) {
    JAXQR_UNROLL
    for (int q = 0; q < kPacks; ++q) {
      const Pack<S> x = load_numbers(v + q * kLanes);
      JAXQR_UNROLL
      for (int a = 0; a < (q + 1) * kLanes; ++a) add_adjoint_product(gram[a][q], spread(v[a]), x);
      JAXQR_UNROLL
      for (int l = 0; l < Columns; ++l) add_adjoint_product(products[l][q], x, spread(c[l]));
    }
  }

  // The entries in row i of the bundle from column `start` on. They are written to `buffer` where
  // memory holds something else: R above the diagonal, the ones on it, or no more reflectors.
  const S* reflectors(long start, long i, S* buffer) const {
    const S* row = h_ + i * k_ + start;
    if (i >= start + kReflectors && start + kReflectors <= k_) return row;
    for (long l = 0; l < kReflectors; ++l) {
      const long j = start + l;
      buffer[l] = j >= k_ || i < j ? S(0) : i == j ? S(1) : row[l];
    }
    return buffer;
  }

  // weights_: what to take off of each reflector.
  void find_weights(long start, const Sums& sums) {
    const long count = std::min<long>(kReflectors, k_ - start);
    S gram[kReflectors][kReflectors];
    for (int a = 0; a < kReflectors; ++a) {
      for (int q = 0; q < kPacks; ++q) store_numbers(sums.gram[a][q], gram[a] + q * kLanes);
    }
    for (int l = 0; l < Columns; ++l) {
      S z[kReflectors];
      for (int q = 0; q < kPacks; ++q) store_numbers(sums.products[l][q], z + q * kLanes);
      for (long s = 0; s < count; ++s) {
        const long i = adjoint_ ? s : count - 1 - s;
        for (long t = 0; t < s; ++t) {
          const long j = adjoint_ ? t : count - 1 - t;
          z[i] -= product(adjoint_ ? conjugate(gram[j][i]) : gram[i][j], z[j]);
        }
        z[i] = product(adjoint_ ? conjugate(tau_[start + i]) : tau_[start + i], z[i]);
      }
      std::fill(z + count, z + kReflectors, S(0));
      for (int q = 0; q < kPacks; ++q) weights_[l][q] = load_numbers(z + q * kLanes);
    }
  }

  const S *h_, *tau_;
  S* c_;
  long m_, k_;
  bool adjoint_;
  Pack<S> weights_[Columns][kPacks];
};

}  // namespace

template <class S>
void apply_few_columns(const ApplyProblem<S>& problem, Pool& pool) {
  std::copy(problem.c, problem.c + problem.rows * problem.cols, problem.out);
  switch (problem.cols) {
    case 1:
      return FewColumns<S, 1>(problem, problem.out).run(pool);
    case 2:
      return FewColumns<S, 2>(problem, problem.out).run(pool);
    case 3:
      return FewColumns<S, 3>(problem, problem.out).run(pool);
    default:
      return FewColumns<S, 4>(problem, problem.out).run(pool);
  }
}

#define INSTANTIATE(S, NAME) template void apply_few_columns<S>(const ApplyProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
