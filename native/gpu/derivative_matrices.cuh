// The matrices of a tangent or a cotangent map in a team's shared memory, and what both maps do
// with them. derivatives.cuh tells what a kernel is given.
#pragma once

#include "gpu/arguments.h"
#include "gpu/triangles.cuh"

namespace jaxqr {

// What both maps have of a matrix. In shared memory are, one behind the other,
//   q     rows of Q,
//   x     rows of a matrix like A, or in `square` of one like Q,
//   r     R,
//   e     a matrix like R,
//   w     a k x k matrix,
// and the point with the reciprocals. Rows come in fours, too.
template <class T, int MOST, bool DEEP>
class Derivative {
 public:
  using Matrix = Tile<T, MOST>;
  using R = Real<T>;

  JAXQR_FN explicit Derivative(const Arguments& arguments)
      : m(arguments.sizes[0]), n(arguments.sizes[1]), k(DEEP ? n : m),
        pivoted(arguments.sizes[3]), rows(arguments.sizes[5]), team(arguments.sizes[4]),
        copies(team, arguments.batch, arguments.sizes[2]),
        q(team.number() * (arguments.sizes[6] / int(sizeof(T))), Matrix::find_lead(n), k),
        x(begin_behind(q, rows), q.lead(), n), square(x.begin(), q.lead(), k),
        r(begin_behind(x, rows), q.lead(), n), e(begin_behind(r, padded_k()), q.lead(), n),
        w(begin_behind(e, padded_k()), q.lead(), k),
        triangle(team, r, k, &w.at(padded_k(), 0)) {}

  JAXQR_FN int padded_k() const { return MOST == 4 ? 4 : (k + 3) / 4 * 4; }
  JAXQR_FN int ranges() const { return DEEP && MOST > 4 ? (m + rows - 1) / rows : 1; }
  // All rows of a deep matrix are visited twice, there and back: the last are still in memory then.
  JAXQR_FN RowRange range(int visit) const {
    const int first = rows * (visit < ranges() ? visit : 2 * ranges() - 1 - visit);
    return {first, m - first < rows ? m - first : rows, m};
  }
  JAXQR_FN RowRange all_of_r() const { return {0, k, k}; }

  // Load R and find the point.
  JAXQR_FN void begin(const Arguments& arguments) {
    clear();
    load_r(arguments, 1);
    team.synchronize();
    triangle.find_point(pivoted);
    point = *triangle.point();
  }
  JAXQR_FN void load_r(const Arguments& arguments, R scale) const {
    const auto change = [&](const Four<T>& entries, int, int) { return scale_by(entries, scale); };
    copies.load(static_cast<const T*>(arguments.data[1]), all_of_r(), r, padded_k(), change);
  }

  // Load rows of Q, and of a matrix, if there is one, times `scale`.
  JAXQR_FN void load_rows(const Arguments& arguments, const void* from, RowRange those,
                          const Matrix& to, R scale) const {
    const auto change = [&](const Four<T>& entries, int, int) { return scale_by(entries, scale); };
    copies.load(static_cast<const T*>(arguments.data[0]), those, q);
    if (from) copies.load(static_cast<const T*>(from), those, to, those.count, change);
    team.synchronize();
  }

  // R_b of (8.6) in e: what of a cotangent pairs with a triangle with a real diagonal.
  JAXQR_FN void load_rbar(const void* from) const {
    const auto prepare = [&](const Four<T>& entries, int i, int g) {
      return keep_triangle(entries, i, g);
    };
    copies.load(static_cast<const T*>(from), all_of_r(), e, k, prepare);
  }

  // Turn the tangent of the scaled R into that of R.
  JAXQR_FN Four<T> finish_tangent(const Four<T>& entries, int i, int g) const {
    return scale_by(keep_triangle(entries, i, g), point.inverse);
  }

  // Make row i that of a triangle with a real diagonal, or zero if it does not count and, pivoted,
  // comes after all that do.
  JAXQR_FN Four<T> keep_triangle(Four<T> entries, int i, int g) const {
    const bool kept = !pivoted || point.has(i);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int j = 4 * g + c;
      if (i == j) entries[c] = number<T>(real_part(entries[c]));
      if (i > j || !kept) entries[c] = number<T>(0);
    }
    return entries;
  }

  // The columns of group g that count.
  JAXQR_FN Four<T> keep_counted(Four<T> entries, int g) const {
    if ((~point.counts >> 4 * g & 15) == 0) return entries;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (!point.has(4 * g + c)) entries[c] = number<T>(0);
    }
    return entries;
  }

  const int m, n, k;
  const bool pivoted;
  const int rows;
  const Team<MOST> team;
  const Copies<T, MOST> copies;
  const Matrix q, x, square, r, e, w;
  const Triangle<T, MOST> triangle;
  Point<R> point;

 private:
  static JAXQR_FN int begin_behind(const Matrix& tile, int rows) {
    return tile.begin() + rows * tile.lead();
  }

  // Let e and w be zero.
  JAXQR_FN void clear() const {
    struct alignas(16) Unit {
      T entry[16 / sizeof(T)];
    };
    Unit zeros;
#pragma unroll
    for (int c = 0; c < int(16 / sizeof(T)); ++c) zeros.entry[c] = number<T>(0);
    const int entries = 2 * padded_k() * e.lead();
    for (int u = team.rank(); u < entries / int(16 / sizeof(T)); u += team.size()) {
      reinterpret_cast<Unit*>(&e.at(0, 0))[u] = zeros;
    }
  }
};

}  // namespace jaxqr
