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
JAXQR_FN Four<T> four_zeros() {
  const T zero = number<T>(0);
  return {{zero, zero, zero, zero}};
}

// A matrix in shared memory, by rows, with at most MOST columns.
//
// Columns are taken in groups of four: there are zeros behind the last one, which nothing else
// replaces. Rows are an odd number of 16 bytes apart, so that threads with a row each meet in no
// bank.
template <class T, int MOST>
class Tile {
 public:
  JAXQR_FN Tile(T* data, int cols) : data_(data), cols_(cols) {}

  // The entries between the beginnings of two rows.
  static JAXQR_FN int lead(int cols) {
    constexpr int kUnit = 16 / sizeof(T);
    const int padded = MOST == 4 ? 4 : (cols + 3) / 4 * 4;
    return (padded / kUnit | 1) * kUnit;
  }

  JAXQR_FN T* data() const { return data_; }
  JAXQR_FN int cols() const { return cols_; }
  JAXQR_FN int groups() const { return MOST == 4 ? 1 : (cols_ + 3) / 4; }
  JAXQR_FN T& at(int i, int j) const { return data_[i * lead(cols_) + j]; }
  JAXQR_FN Four<T> get(int i, int group) const { return *place(i, group); }
  JAXQR_FN void put(int i, int group, Four<T> x) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (4 * group + c >= cols_) x[c] = number<T>(0);
    }
    *place(i, group) = x;
  }

 private:
  JAXQR_FN Four<T>* place(int i, int group) const {
    return reinterpret_cast<Four<T>*>(&at(i, 4 * group));
  }

  T* data_;
  int cols_;
};

// The threads that work on one matrix: some of a warp, or, if they are more, the block. Their number
// is a power of two. Where MOST is 4 they are four, and nothing that they share out has more than
// four parts.
template <int MOST>
class Team {
 public:
  JAXQR_FN explicit Team(int size) : size_(size) {}

  JAXQR_FN int size() const { return MOST == 4 ? 4 : size_; }
  JAXQR_FN int rank() const { return threadIdx.x & (size() - 1); }
  JAXQR_FN bool is_block() const { return size() > 32; }
  JAXQR_FN void synchronize() const { is_block() ? __syncthreads() : __syncwarp(); }

  // Those that copy together: all of a warp, for all of its teams, or the block.
  JAXQR_FN int crew() const { return is_block() ? size() : 32; }
  JAXQR_FN int rank_in_crew() const { return threadIdx.x & (crew() - 1); }
  JAXQR_FN int teams_in_crew() const { return crew() / size(); }
  JAXQR_FN int number_in_crew() const { return rank_in_crew() / size(); }

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
      const int bits = count_bits(rows), down = 1 << bits;
      for (int group = rank() >> bits; group < groups; group += size() >> bits) {
        for (int i = rank() & (down - 1); i < rows; i += down) use(i, group);
      }
    }
  }

  // The bits of a number that counts so many things, but of no larger one than a rank.
  JAXQR_FN int count_bits(int things) const {
    const int most = 31 - __clz(size()), wanted = things > 1 ? 32 - __clz(things - 1) : 0;
    return wanted < most ? wanted : most;
  }

 private:
  int size_;
};

// Some rows, or all, of matrices of one shape.
struct RowRange {
  int first, count, of;
};

// The matrices of a batch that a crew has, between global memory, where they lie by rows or by
// columns, and the tiles of its teams.
template <class T, int MOST>
class Crew {
 public:
  JAXQR_FN Crew(const Team<MOST>& team, long long batch, bool transposed, int bytes_per_team)
      : team_(team), transposed_(transposed), bytes_(bytes_per_team) {
    const int teams = team.teams_in_crew(), crews = blockDim.x / team.crew();
    first_ = (static_cast<long long>(blockIdx.x) * crews + threadIdx.x / team.crew()) * teams;
    const long long left = batch - first_;
    count_ = left < 0 ? 0 : left < teams ? static_cast<int>(left) : teams;
  }

  // How many of the teams, the first ones, have a matrix.
  JAXQR_FN int count() const { return count_; }

  // The shared memory of this thread's team.
  JAXQR_FN unsigned char* memory() const {
    return warp_memory<unsigned char>(team_.is_block() ? 0 : bytes_ * team_.teams_in_crew()) +
           team_.number_in_crew() * bytes_;
  }

  // What the team `which` has where this thread's team has `mine`.
  template <class X>
  JAXQR_FN X* of_team(X* mine, int which) const {
    return reinterpret_cast<X*>(reinterpret_cast<unsigned char*>(mine) +
                                (which - team_.number_in_crew()) * bytes_);
  }

  // Copy into tiles. An entry x becomes change(x, i, j, which): row, column, and which team's.
  template <class Change>
  JAXQR_FN void load(const T* from, RowRange rows, const Tile<T, MOST>& to,
                     const Change& change) const {
    constexpr int kAtOnce = MOST == 4 ? 4 : 8;  // entries that a thread waits for together
    const Places places(*this, rows, to.cols());
    const T* const source = from + first_ * rows.of * to.cols();
    const int total = count_ * rows.count * to.cols();
    for (int e = team_.rank_in_crew(); e < total; e += kAtOnce * team_.crew()) {
      T value[kAtOnce];
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
        const int entry = e + c * team_.crew();
        if (entry < total) value[c] = source[places.find(entry).there];
      }
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) {
        const int entry = e + c * team_.crew();
        if (entry >= total) break;
        const Place place = places.find(entry);
        entry_of(to, place) = change(value[c], place.i, place.j, place.which);
      }
    }
  }
  JAXQR_FN void load(const T* from, RowRange rows, const Tile<T, MOST>& to) const {
    load(from, rows, to, [](T x, int, int, int) { return x; });
  }

  JAXQR_FN void store(const Tile<T, MOST>& from, RowRange rows, T* to) const {
    const Places places(*this, rows, from.cols());
    T* const target = to + first_ * rows.of * from.cols();
    const int total = count_ * rows.count * from.cols();
    for (int e = team_.rank_in_crew(); e < total; e += team_.crew()) {
      const Place place = places.find(e);
      target[place.there] = entry_of(from, place);
    }
  }

 private:
  struct Place {
    int there, which, i, j;
  };

  // Where entry number e is, counted in the order of global memory.
  class Places {
   public:
    JAXQR_FN Places(const Crew& crew, RowRange rows, int cols)
        : size_(rows.count * cols), inner_(crew.transposed_ ? rows.count : cols),
          transposed_(crew.transposed_), offset_(transposed_ ? rows.first : rows.first * cols),
          gap_(transposed_ ? rows.of - rows.count : 0) {}

    JAXQR_FN Place find(int e) const {
      const int which = size_.divide(e), within = e - which * size_.by();
      const int outer = inner_.divide(within), at = within - outer * inner_.by();
      // only one matrix has a gap
      return {e + offset_ + outer * gap_, which, transposed_ ? at : outer, transposed_ ? outer : at};
    }

   private:
    Divisor size_, inner_;
    bool transposed_;
    int offset_, gap_;
  };

  JAXQR_FN T& entry_of(const Tile<T, MOST>& tile, Place place) const {
    return *of_team(&tile.at(place.i, place.j), place.which);
  }

  Team<MOST> team_;
  bool transposed_;
  int bytes_;
  long long first_;
  int count_;
};

}  // namespace jaxqr
