// A random sketch Y = G A of a matrix: a few combinations of its rows, which tell about as much of
// the columns' norms, and of what is left of them, as the matrix does.
//
// While A is factored, Y follows it: with A P = Q [R11 R12; 0 A22] and G Q = [G1 G2], the sketch of
// A22 is G2 A22 = Y2 - G1 R12, and G1 = Y1 R11^-1 (Duersch and Gu, 2017; Martinsson et al., 2017).
// That subtraction leaves the errors of Y2. So where little is left of a column that should be
// chosen, what is left of A is sketched anew.
#pragma once

#include <numeric>

#include "pivoted/column_choice.h"

namespace jaxqr {

// Number `index` of a fixed sequence of independent numbers, nearly Gaussian, with variance 1: the
// sum of the four parts of a hash (splitmix64) of the index.
template <class T>
inline T random_number(uint64_t index) {
  uint64_t x = (index + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  int32_t sum = 0;
  for (int shift = 0; shift < 64; shift += 16) sum += static_cast<int32_t>(x >> shift & 0xffff);
  constexpr double deviation = 37837.1;  // of the sum: 2^16 / sqrt(3)
  return static_cast<T>(sum - 131070) * static_cast<T>(1 / deviation);
}

template <class S>
class Sketch {
 public:
  using T = RealOf<S>;
  static constexpr long kMostChosen = ReflectorGroups<S>::kMost;

  static size_t workspace(long m, long n) {
    return Workspace::size<Pack<S>>(RowPanel<S>::size(kRows, n)) +
           Workspace::size<Pack<S>>(RowPanel<S>::size(m, kRows)) +
           Workspace::size<Pack<S>>(RowPanel<S>::size(kRows, kMostChosen)) + Workspace::size<T>(n) +
           2 * Workspace::size<int32_t>(round_up(n, kSet));
  }

  // The sketch of an m x n matrix.
  Sketch(long m, long n, Workspace& workspace)
      : n_(n),
        y_(workspace.take<Pack<S>>(RowPanel<S>::size(kRows, n)), kRows, n),
        g_(workspace.take<Pack<S>>(RowPanel<S>::size(m, kRows)), m, kRows),
        x_(workspace.take<Pack<S>>(RowPanel<S>::size(kRows, kMostChosen)), kRows, kMostChosen),
        references_(workspace.take<T>(n)),
        candidates_(workspace.take<int32_t>(round_up(n, kSet))),
        winners_(workspace.take<int32_t>(round_up(n, kSet))) {}

  // Sketch what is left of `a` once `done` of its rows and columns are.
  void draw(Pool& pool, RowPanel<S> a, long done) {
    const long first = done / kLanes;
    for_ranges(pool, kRows, a.rows - done, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) fill(i, done);
    });
    constexpr long cols = kTargetColumns<S>;
    const long cost = cols * kRows / 8 * (a.rows - done);
    for_ranges(pool, ceil_divide(n_ - done, cols), cost, [&](long begin, long end) {
      for (long j = done + begin * cols; j < std::min(n_, done + end * cols); j += cols) {
        for (long l = j; l < std::min(n_, j + cols); ++l) {
          std::fill_n(y_.column(l), y_.packs(), Pack<S>::zero());
        }
        for (long i = 0; i < kRows; i += kGroupColumns) {
          S products[cols][kGroupColumns];
          inner_products(g_.column(i), a.column(j), a.stride, first, a.packs(), products);
          for (long e = 0; e < cols * kGroupColumns && j + e / kGroupColumns < n_; ++e) {
            y_.set(i + e % kGroupColumns, j + e / kGroupColumns,
                   products[e / kGroupColumns][e % kGroupColumns]);
          }
        }
      }
    });
    ++drawn_;
    std::fill(references_ + done, references_ + n_, T(-1));
  }

  // Choose up to `count` of the columns from `first` on, the largest first. None are chosen, or
  // fewer than could be, where the sketch has lost the digits to choose by.
  //
  // Sets of columns send their best ones to the next round, until one set is left.
  long choose(Pool& pool, long first, long count, int32_t* chosen) {
    long left = n_ - first;
    std::iota(candidates_, candidates_ + left, static_cast<int32_t>(first));
    for (long sets = 2; sets > 1;) {
      sets = ceil_divide(left, kSet);
      for_ranges(pool, sets, kSet * kRows * count / 4, [&](long begin, long end) {
        for (long set = begin; set < end; ++set) choose_in(set, left, count);
      });
      left = gather(sets);
    }
    std::copy_n(candidates_, left, chosen);
    return left;
  }

  void exchange(long i, long j) {
    if (i == j) return;
    std::swap_ranges(y_.column(i), y_.column(i) + y_.packs(), y_.column(j));
    std::swap(references_[i], references_[j]);
  }

  // Find G1 = Y1 R11^-1 for the `count` columns from `first` on. False if R11 is singular.
  bool eliminate(RowPanel<S> r11, long top, long first, long count) {
    for (long c = 0; c < count; ++c) {
      Pack<S>* x = x_.column(c);
      std::copy_n(y_.column(first + c), y_.packs(), x);
      for (long i = 0; i < c; ++i) subtract(i, r11.get(top + i, c), x);
      const T diagonal = std::real(r11.get(top + c, c));
      if (diagonal == 0) return false;
      for (long i = 0; i < y_.packs(); ++i) x[i] = scale(x[i], broadcast(1 / diagonal));
    }
    return true;
  }

  // Take G1 R12 off column j, whose new entries of R begin at row `first` of `a`.
  void follow(RowPanel<S> a, long first, long count, long j) {
    long i = 0;
    for (; i + kGroupColumns <= count; i += kGroupColumns) {
      S r[1][kGroupColumns];
      for (long e = 0; e < kGroupColumns; ++e) r[0][e] = a.get(first + i + e, j);
      subtract_combinations(x_.column(i), r, y_.column(j), y_.stride, 0, y_.packs());
    }
    for (; i < count; ++i) subtract(i, a.get(first + i, j), y_.column(j));
  }

 private:
  static constexpr long kLanes = RowPanel<S>::kLanes;
  static constexpr long kRows = kMostChosen + 8;
  static constexpr long kSet = 256;  // columns that are compared with one another

  void subtract(long i, S factor, Pack<S>* y) {
    const S one[1][1] = {{factor}};
    subtract_combinations(x_.column(i), one, y, y_.stride, 0, y_.packs());
  }

  // Row i of G, as a column, zero above row `done`. Every sketch has random numbers of its own.
  void fill(long i, long done) {
    const uint64_t sequence = (drawn_ << 16 | static_cast<uint64_t>(i)) << 32;
    std::fill_n(g_.column(i) + done / kLanes, g_.packs() - done / kLanes, Pack<S>::zero());
    for (long j = done; j < g_.rows; ++j) {
      T* to = g_.entry(j, i);
      for (long part = 0; part < kParts<S>; ++part) {
        to[part * kLanes] = random_number<T>(sequence | static_cast<uint64_t>(2 * j + part));
      }
    }
  }

  // Let `count` of the candidates in a set win.
  void choose_in(long set, long candidates, long count) {
    const long cols = std::min(kSet, candidates - set * kSet);
    const int32_t* index = candidates_ + set * kSet;
    Workspace workspace(ColumnChoice<S>::workspace(kRows, cols));
    ColumnChoice<S> choice(kRows, cols, workspace);
    choice.load(y_, index);
    bool finite = true;
    for (long j = 0; j < cols; ++j) {
      T& reference = references_[index[j]];
      if (reference < 0) reference = choice.square(j);
      finite &= choice.square(j) <= std::numeric_limits<T>::max();
    }
    const auto good = [&](long column, T square) {
      const T reference = references_[index[column]];
      return square >= kLeastSquare<T> && square >= kLeastPart * reference &&
             square <= reference / kLeastPart;
    };
    int32_t* const won = winners_ + set * kSet;
    const long winners = finite ? choice.choose(std::min(count, cols), won, good) : 0;
    for (long i = 0; i < winners; ++i) won[i] = index[won[i]];
    if (winners < kSet) won[winners] = -1;
  }

  // Make the winners of all sets the candidates. Returns their number.
  long gather(long sets) {
    long count = 0;
    for (long set = 0; set < sets; ++set) {
      const int32_t* won = winners_ + set * kSet;
      for (long i = 0; i < kSet && won[i] >= 0; ++i) candidates_[count++] = won[i];
    }
    return count;
  }

  long n_;
  RowPanel<S> y_;      // by columns
  RowPanel<S> g_, x_;  // G, by rows, and G1
  T* references_;      // squares of the columns' norms when they were last drawn; -1: not known yet
  int32_t *candidates_, *winners_;
  uint64_t drawn_ = 0;
  // How much of the square of a norm must be left, about epsilon^(2/3): R11 may magnify the errors
  // of Y by as much as its columns have lost.
  static constexpr T kLeastPart = sizeof(T) == 8 ? T(0x1p-35) : T(0x1p-15);
};

}  // namespace jaxqr
