// Teams of threads, each with the matrices of one problem in shared memory, and how these matrices
// come and go. Kernels that are made of products of small matrices use them.
#pragma once

#include "gpu/tiles.cuh"

namespace jaxqr {

// Four entries of a row, which a thread reads and writes at once.
template <class T>
struct alignas(16) Four {
  T entry[4];
  JAXQR_FN T& operator[](int c) { return entry[c]; }
  JAXQR_FN const T& operator[](int c) const { return entry[c]; }
};

template <class T>
JAXQR_FN Four<T> operator+(Four<T> x, const Four<T>& y) {
#pragma unroll
  for (int c = 0; c < 4; ++c) x[c] = x[c] + y[c];
  return x;
}
template <class T>
JAXQR_FN Four<T> operator-(Four<T> x, const Four<T>& y) {
#pragma unroll
  for (int c = 0; c < 4; ++c) x[c] = x[c] - y[c];
  return x;
}
template <class T>
JAXQR_FN Four<T> scale_by(Four<T> x, Real<T> s) {
#pragma unroll
  for (int c = 0; c < 4; ++c) x[c] = scale_by(x[c], s);
  return x;
}

// A matrix in shared memory, by rows, with at most MOST columns.
//
// Columns are taken in groups of four: there are zeros behind the last one, which nothing else
// replaces. Rows are an odd number of 16 bytes apart, so that threads with a row each meet in no
// bank.
template <class T, int MOST>
class Tile {
 public:
  // It begins at entry `begin` of the block's shared memory, and there are `lead` entries between
  // the beginnings of two rows.
  JAXQR_FN Tile(int begin, int lead, int cols) : begin_(begin), lead_(lead), cols_(cols) {}

  // What `lead` must be for so many columns, or more.
  static JAXQR_FN int find_lead(int cols) {
    constexpr int kUnit = 16 / sizeof(T);
    const int padded = MOST == 4 ? 4 : (cols + 3) / 4 * 4;
    return (padded / kUnit | 1) * kUnit;
  }

  JAXQR_FN int begin() const { return begin_; }
  JAXQR_FN int lead() const { return MOST == 4 ? find_lead(4) : lead_; }
  JAXQR_FN int cols() const { return cols_; }
  JAXQR_FN int groups() const { return MOST == 4 ? 1 : (cols_ + 3) / 4; }
  JAXQR_FN T& at(int i, int j) const { return entry(place(i, j)); }
  JAXQR_FN int place(int i, int j) const { return begin_ + i * lead() + j; }
  JAXQR_FN Four<T> get(int i, int group) const { return get_at(place(i, 4 * group)); }
  JAXQR_FN static Four<T> get_at(int place) { return *reinterpret_cast<Four<T>*>(&entry(place)); }
  JAXQR_FN void put(int i, int group, Four<T> x) const {
    if (4 * group + 4 > cols_) {
#pragma unroll
      for (int c = 1; c < 4; ++c) {
        if (4 * group + c >= cols_) x[c] = number<T>(0);
      }
    }
    *reinterpret_cast<Four<T>*>(&at(i, 4 * group)) = x;
  }

 private:
  static JAXQR_FN T& entry(int place) { return warp_memory<T>(0)[place]; }

  int begin_, lead_, cols_;
};

// The same number, which the compiler does not know to be the same: what is computed from it is
// computed here, and takes no registers before.
JAXQR_FN int renew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// The threads that work on one matrix: some of a warp, or, if they are more, the block. Their
// number is a power of two. Where MOST is 4 they are four, and nothing that they share out has more
// than four parts.
template <int MOST>
class Team {
 public:
  static constexpr int kRows = MOST == 4 ? 1 : 2;

  JAXQR_FN explicit Team(int size) : size_(size) {}

  JAXQR_FN int size() const { return MOST == 4 ? 4 : size_; }
  JAXQR_FN int rank() const { return threadIdx.x & (size() - 1); }
  JAXQR_FN int number() const { return threadIdx.x >> count_bits(size()); }  // in the block
  JAXQR_FN int teams() const { return blockDim.x >> count_bits(size()); }
  JAXQR_FN void synchronize() const { size() > 32 ? __syncthreads() : __syncwarp(); }

  template <class Use>
  JAXQR_FN void for_rows(int rows, const Use& use) const {
    if constexpr (MOST == 4) {
      if (rank() < rows) use(rank());
    } else {
      for (int i = rank(); i < rows; i += size()) use(i);
    }
  }

  // All groups of four columns of all rows. Neighbours have neighbouring rows of the same group.
  template <class Use>
  JAXQR_FN void for_groups(int rows, int groups, const Use& use) const {
    if constexpr (MOST == 4) {
      if (rank() < rows) use(rank(), 0);
    } else {
      const int bits = count_bits(renew(rows)), down = 1 << bits;
      for (int group = rank() >> bits; group < groups; group += size() >> bits) {
        for (int i = rank() & (down - 1); i < rows; i += down) use(i, group);
      }
    }
  }

  // The same with kRows rows for a thread at a time. In place of those that are not there the first
  // is repeated.
  template <class Use>
  JAXQR_FN void for_row_blocks(int rows, int groups, const Use& use) const {
    if constexpr (MOST == 4) {
      const int i[kRows] = {rank()};
      if (rank() < rows) use(i, 0);
    } else {
      const int bits = count_bits((renew(rows) + kRows - 1) / kRows), down = 1 << bits;
      for (int group = rank() >> bits; group < groups; group += size() >> bits) {
        for (int first = rank() & (down - 1); first < rows; first += kRows * down) {
          const int i[kRows] = {first, first + down < rows ? first + down : first};
          use(i, group);
        }
      }
    }
  }

  // The bits of a number that counts so many things, but of no larger one than a rank.
  JAXQR_FN int count_bits(int things) const {
    const int most = MOST == 4 ? 2 : 31 - __clz(size_);
    const int wanted = things > 1 ? 32 - __clz(things - 1) : 0;
    return wanted < most ? wanted : most;
  }

 private:
  int size_;
};

// Some rows, or all, of a matrix.
struct RowRange {
  int first, count, of;
};

// Copies matrices between global memory, where they lie by rows or by columns, and a team's tiles.
// Teams of a warp have neighbouring matrices. One without a matrix, as the batch ends, loads the
// last and stores nothing.
template <class T, int MOST>
class Copies {
 public:
  using Matrix = Tile<T, MOST>;

  JAXQR_FN Copies(const Team<MOST>& team, const long long& batch, bool transposed)
      : team_(team), batch_(batch), transposed_(transposed) {}

  // Load rows. What a thread reads at once, in row i and group g, becomes change(entries, i, g).
  // Behind the rows are zeros, until there are `filled`.
  template <class Change>
  JAXQR_FN void load(const T* from, RowRange rows, const Matrix& to, int filled,
                     const Change& change) const {
    const Places places(*this, rows, to, filled);
    if (places.whole) {
      load_groups<true>(from, rows.count, to, filled, places, change);
    } else {
      load_groups<false>(from, rows.count, to, filled, places, change);
    }
  }
  JAXQR_FN void load(const T* from, RowRange rows, const Matrix& to) const {
    load(from, rows, to, rows.count, [](const Four<T>& entries, int, int) { return entries; });
  }

  JAXQR_FN void store(const Matrix& from, RowRange rows, T* to) const {
    if (find_matrix() >= batch_) return;
    const Places places(*this, rows, from, rows.count);
    if (places.whole) {
      store_groups<true>(from, rows.count, to, places);
    } else {
      store_groups<false>(from, rows.count, to, places);
    }
  }

 private:
  // Which rows and groups a thread copies, so that neighbours have what lies side by side, and
  // where they are in global memory.
  struct Places {
    int row, row_step, group, group_step, cols;
    int down, across;  // between neighbouring entries of a column, and of a row
    long long start;
    bool whole;  // whether the entries of a group are there and lie side by side, at even addresses

    JAXQR_FN Places(const Copies& copies, RowRange rows, const Matrix& tile, int filled)
        : cols(renew(tile.cols())), down(copies.transposed_ ? 1 : cols),
          across(copies.transposed_ ? rows.of : 1),
          start(copies.find_loaded() * rows.of * cols + rows.first * down),
          whole(!copies.transposed_ && cols % 4 == 0) {
      const Team<MOST>& team = copies.team_;
      if constexpr (MOST == 4) {
        row = team.rank(), row_step = 4, group = 0, group_step = 1;
      } else {
        const int bits = team.count_bits(copies.transposed_ ? filled : (cols + 3) / 4);
        const int fast = team.rank() & ((1 << bits) - 1), slow = team.rank() >> bits;
        const int fast_step = 1 << bits, slow_step = team.size() >> bits;
        row = copies.transposed_ ? fast : slow, group = copies.transposed_ ? slow : fast;
        row_step = copies.transposed_ ? fast_step : slow_step;
        group_step = copies.transposed_ ? slow_step : fast_step;
      }
    }
    JAXQR_FN long long find(int i, int g) const { return start + i * down + 4 * g * across; }
  };

  template <bool WHOLE, class Change>
  JAXQR_FN void load_groups(const T* from, int count, const Matrix& to, int filled,
                            const Places& places, const Change& change) const {
    // how many groups a thread waits for together
    constexpr int kAtOnce = MOST == 4 || !WHOLE ? 1 : sizeof(T) == 16 ? 2 : 4;
#pragma unroll 1
    for (int g = places.group; g < to.groups(); g += places.group_step) {
#pragma unroll 1
      for (int i = places.row; i < filled; i += kAtOnce * places.row_step) {
        Four<T> entries[kAtOnce];
#pragma unroll
        for (int c = 0; c < kAtOnce; ++c) {
          const int row = i + c * places.row_step;
          entries[c] = row < count ? read<WHOLE>(from, places, row, g) : Four<T>{};
        }
#pragma unroll
        for (int c = 0; c < kAtOnce; ++c) {
          const int row = i + c * places.row_step;
          if (row < filled) to.put(row, g, change(entries[c], row, g));
        }
      }
    }
  }

  template <bool WHOLE>
  JAXQR_FN void store_groups(const Matrix& from, int count, T* to, const Places& places) const {
#pragma unroll 1
    for (int g = places.group; g < from.groups(); g += places.group_step) {
#pragma unroll 1
      for (int i = places.row; i < count; i += places.row_step) {
        write<WHOLE>(from.get(i, g), to, places, i, g);
      }
    }
  }

  template <bool WHOLE>
  JAXQR_FN Four<T> read(const T* from, const Places& places, int i, int g) const {
    const T* const place = from + places.find(i, g);
    if constexpr (WHOLE) return *reinterpret_cast<const Four<T>*>(place);
    Four<T> entries;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      entries[c] = 4 * g + c < places.cols ? place[c * places.across] : number<T>(0);
    }
    return entries;
  }

  template <bool WHOLE>
  JAXQR_FN void write(const Four<T>& entries, T* to, const Places& places, int i, int g) const {
    T* const place = to + places.find(i, g);
    if constexpr (WHOLE) {
      *reinterpret_cast<Four<T>*>(place) = entries;
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (4 * g + c < places.cols) place[c * places.across] = entries[c];
      }
    }
  }

  // Computed where it is needed, as registers are scarcer.
  JAXQR_FN long long find_matrix() const {
    return static_cast<long long>(blockIdx.x) * team_.teams() + team_.number();
  }
  JAXQR_FN long long find_loaded() const {
    const long long matrix = find_matrix();
    return matrix < batch_ ? matrix : batch_ - 1;
  }

  Team<MOST> team_;
  const long long& batch_;
  bool transposed_;
};

}  // namespace jaxqr
