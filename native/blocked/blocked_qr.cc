// One large matrix: what is factored where, and reflectors that are given.
#include <mutex>
#include <vector>

#include "blocked/factorization.h"
#include "common/fill_nan.h"
#include "common/passes.h"
#include "common/range.h"
#include "kernels.h"

namespace jaxqr {
namespace {

// ----------------------------------------------------------- passes, shared between the threads

// Copy the leading columns that `to` has room for.
template <class S>
void copy_columns(View<S> from, View<S> to, Pool& pool) {
  for_ranges(pool, line_count(to), line_length(to), [&](long first, long last) {
    for (long i = first; i < last; ++i) std::copy_n(line(from, i), line_length(to), line(to, i));
  });
}

// The same, and find the powers of two for all columns of `from`.
template <class S>
Scaling copy_and_judge(View<S> from, View<S> to, RealOf<S>* scales, Pool& pool) {
  using T = RealOf<S>;
  const long n = from.cols, length = line_length(from) * kParts<S>;
  const bool by_rows = from.order == Order::kRows;
  std::vector<T> largest(n * kParts<S>);  // of the real numbers of a row; by columns the first n
  std::mutex mutex;
  for_ranges(pool, line_count(from), line_length(from), [&](long first, long last) {
    std::vector<T> found(by_rows ? n * kParts<S> : 0);
    for (long i = first; i < last; ++i) {
      const T* x = reinterpret_cast<const T*>(line(from, i));
      if (by_rows) {
        include_magnitudes(x, length, found.data());
      } else {
        largest[i] = largest_magnitude(x, length);
      }
      if (i < line_count(to)) std::copy_n(line(from, i), line_length(to), line(to, i));
    }
    if (!by_rows) return;
    std::lock_guard<std::mutex> lock(mutex);
    include_magnitudes(found.data(), length, largest.data());
  });
  Scaling scaling;
  for (long j = 0; j < n; ++j) {
    const bool pair = by_rows && kIsComplex<S>;
    scales[j] = scale_for(pair ? larger(largest[2 * j], largest[2 * j + 1]) : largest[j]);
    scaling.include(scales[j]);
  }
  return scaling;
}

template <class S>
void fill_zero(View<S> a, Pool& pool) {
  for_ranges(pool, line_count(a), line_length(a), [&](long first, long last) {
    for (long i = first; i < last; ++i) std::fill_n(line(a, i), line_length(a), S(0));
  });
}

// Q of a factorization, in the arrays that are wanted.
template <class S>
void form_q(const QrProblem<S>& problem, const Factorization<S>& factors, Pool& pool) {
  const long m = problem.m, k = problem.k();
  const bool full = problem.q_full;
  const View<S> q = dense(full ? problem.q_full : problem.q, m, full ? m : k, problem.order);
  fill_zero(q, pool);
  factors.form(q);
  if (full && problem.q) copy_columns(q, dense(problem.q, m, k, problem.order), pool);
}

// ------------------------------------------------------------------------------ where A is
// factored

// A is copied and factored in place, as far as possible in an array of the results:
// - in that of h, which is R and the reflectors;
// - or in that of R, if it has room for all rows of A, which means m <= n;
// - or where Q will be, or in a workspace: there is room for the leading k columns, and more are
// not
//   wanted as R is not, or there are none.
template <class S>
S* find_array_of_r(const QrProblem<S>& problem) {
  if (problem.h) return problem.h;
  return problem.m <= problem.n ? problem.r : nullptr;
}

template <class S>
View<S> find_place(const QrProblem<S>& problem, Workspace& workspace) {
  const long m = problem.m, k = problem.k();
  if (S* r = find_array_of_r(problem)) return dense(r, m, problem.n, problem.order);
  if (problem.q_full) return dense(problem.q_full, m, m, problem.order).block(0, 0, m, k);
  return dense(problem.q ? problem.q : workspace.take<S>(m * k), m, k, problem.order);
}

// The columns of R behind its left square, as a product: Q^H A. Q must have been formed.
template <class S>
void multiply_rest_of_r(const QrProblem<S>& problem) {
  const long m = problem.m, n = problem.n;
  const View<S> a = dense(problem.a, m, n, problem.order);
  const View<S> q = dense(problem.q ? problem.q : problem.q_full, m, m, problem.order);
  for (S* target : {problem.r, problem.h}) {
    if (!target) continue;
    multiply(S(1), Op::kAdjoint, q, Op::kPlain, a.block(0, m, m, n - m), S(0),
             dense(target, m, n, problem.order).block(0, m, m, n - m));
  }
}

// ------------------------------------------------------------------- reflectors that are given

// Blocks of k given reflectors, each put together when it is asked for.
template <class S>
class GivenReflectors {
 public:
  static size_t workspace(long m, long k) {
    const long width = widths_for(k).block;
    return Workspace::size<S>(m * width) + Workspace::size<S>(width * width);
  }

  GivenReflectors(View<S> h, const S* tau, long k, Workspace& workspace)
      : h_(h), tau_(tau), k_(k), width_(widths_for(k).block) {
    v_ = workspace.take<S>(h.rows * width_);
    t_ = workspace.take<S>(width_ * width_);
  }

  long width() const { return width_; }

  BlockReflector<S> block_at(long first) const {
    const long width = std::min(width_, k_ - first), rows = h_.rows - first;
    const BlockReflector<S> block{dense(v_, rows, width, h_.order),
                                  dense(t_, width, width, h_.order)};
    unpack_reflectors(h_.block(first, first, rows, width), tau_ + first, block);
    return block;
  }

 private:
  View<S> h_;
  const S* tau_;
  long k_, width_;
  S *v_, *t_;
};

}  // namespace

// Of a wide matrix only the left square is factored, if Q is wanted: the rest of R is then a single
// product. But where columns have to be scaled, that product could leave the range of the type.
template <class S>
void factor_blocked(const QrProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n, k = problem.k();
  const View<S> a = dense(problem.a, m, n, problem.order);
  const bool wants_q = problem.q || problem.q_full;
  const long q_cols = problem.q_full ? m : k;
  const typename Factorization<S>::Keep keep{problem.h != nullptr, wants_q};
  Workspace workspace(Factorization<S>::workspace(m, n, q_cols, keep) + Workspace::size<S>(k) +
                      Workspace::size<S>(m * k) + Workspace::size<RealOf<S>>(n));
  RealOf<S>* scales = workspace.take<RealOf<S>>(n);
  S* tau = problem.tau ? problem.tau : workspace.take<S>(k);

  const View<S> place = find_place(problem, workspace);
  const bool is_wide = place.cols > m && wants_q;
  View<S> work = is_wide ? place.block(0, 0, m, m) : place;
  const Scaling scaling = copy_and_judge(a, work, scales, pool);
  if (!scaling.finite) return fill_nan(problem);
  if (scaling.needed) {
    if (is_wide) {
      work = place;
      copy_columns(a, work, pool);
    }
    multiply_columns(work, [&](long j) { return scales[j]; });
  }

  Factorization<S> factors(work, tau, q_cols, keep, workspace);
  factors.run();
  if (scaling.needed) divide_upper(pool, work, scales);
  if (problem.r) {
    copy_triangle(pool, RealOf<S>(1), work.block(0, 0, k, work.cols), k,
                  dense(problem.r, k, n, problem.order).block(0, 0, k, work.cols));
  }
  if (wants_q) form_q(problem, factors, pool);
  if (is_wide && !scaling.needed) multiply_rest_of_r(problem);
}

template <class S>
void form_blocked(const FormProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n, k = problem.k;
  const long space = 2 * widths_for(k).block * n;
  Workspace workspace(GivenReflectors<S>::workspace(m, k) + Workspace::size<S>(space));
  const View<S> h = dense(problem.h, m, n, problem.order);
  const View<S> q = dense(problem.q, m, n, problem.order);
  const GivenReflectors<S> reflectors(h, problem.tau, k, workspace);
  fill_zero(q, pool);
  form_columns(
      q, k, reflectors.width(), [&](long first) { return reflectors.block_at(first); },
      workspace.take<S>(space));
}

template <class S>
void apply_blocked(const ApplyProblem<S>& problem, Pool& pool) {
  const long m = problem.m, k = problem.k, rows = problem.rows, cols = problem.cols;
  const Order order = problem.order;
  const long space_size = 2 * widths_for(k).block * (problem.left ? cols : rows);
  Workspace workspace(GivenReflectors<S>::workspace(m, k) + Workspace::size<S>(space_size));
  const View<S> h = dense(problem.h, m, k, order);
  const GivenReflectors<S> reflectors(h, problem.tau, k, workspace);
  S* space = workspace.take<S>(space_size);

  const View<S> out = dense(problem.out, rows, cols, order);
  copy_columns(dense(problem.c, rows, cols, order), out, pool);
  const long width = reflectors.width(), last = round_up(k, width) - width;
  for (long i = 0; i < k; i += width) {
    // Q C and C Q^H begin with the last reflectors
    const long first = problem.left == problem.adjoint ? i : last - i;
    const BlockReflector<S> block = reflectors.block_at(first);
    if (problem.left) {
      apply_left(block, problem.adjoint, out.block(first, 0, rows - first, cols), space);
    } else {
      apply_right(block, problem.adjoint, out.block(0, first, rows, cols - first), space);
    }
  }
}

#define INSTANTIATE(S, NAME)                                   \
  template void factor_blocked<S>(const QrProblem<S>&, Pool&); \
  template void form_blocked<S>(const FormProblem<S>&, Pool&); \
  template void apply_blocked<S>(const ApplyProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
