// The registers of a block that holds a matrix: thread t has rows t, t + blockDim.x, ... of it, all
// columns of each. How they are filled from global memory and written there.
#pragma once

#include "gpu/threads.cuh"

namespace jaxqr {

// The row that is number `s` of this thread's.
JAXQR_FN int row_of(int s) { return thread_of_block() + s * threads_of_block(); }

// Sixteen bytes, which shared memory is read and written by.
template <class T>
struct alignas(16) Words {
  static constexpr int kCount = 16 / sizeof(T);
  T entry[kCount];
};

// COUNT entries from or to an address that is a multiple of sixteen bytes.
template <int COUNT, class T>
JAXQR_FN void read_words(const T* from, T* to) {
  constexpr int kCount = Words<T>::kCount;
#pragma unroll
  for (int i = 0; i < COUNT; i += kCount) {
    const Words<T> words = *reinterpret_cast<const Words<T>*>(from + i);
#pragma unroll
    for (int u = 0; u < kCount; ++u) to[i + u] = words.entry[u];
  }
}
template <int COUNT, class T>
JAXQR_FN void write_words(const T* from, T* to) {
  constexpr int kCount = Words<T>::kCount;
#pragma unroll
  for (int i = 0; i < COUNT; i += kCount) {
    Words<T> words;
#pragma unroll
    for (int u = 0; u < kCount; ++u) words.entry[u] = from[i + u];
    *reinterpret_cast<Words<T>*>(to + i) = words;
  }
}

// Thirty-two rows and some columns of a matrix in the shared memory of a warp. A matrix by rows
// passes through it piece by piece: in global memory, a warp reads and writes whole sectors of
// some rows, but a lane wants a row.
template <class T>
class RowPiece {
 public:
  static constexpr int kCols = sizeof(T) == 16 ? 4 : 8;
  static constexpr int kLead = kCols + 1;  // odd, so that a column's entries are in different banks
  static constexpr int kRows = 32 / kCols;  // that a warp's lanes reach at once in global memory
  static constexpr int kBytes = (32 * kLead * static_cast<int>(sizeof(T)) + 15) / 16 * 16;

  JAXQR_FN explicit RowPiece(unsigned char* memory)
      : tile_(reinterpret_cast<T*>(memory + warp_of_block() * kBytes)) {}

  // The place of this lane's entry in the global order, for the k-th group of rows.
  JAXQR_FN static int row(int k) { return lane_of_warp() / kCols + k * kRows; }
  JAXQR_FN static int col() { return lane_of_warp() % kCols; }

  JAXQR_FN T& in_order(int k) const { return tile_[row(k) * kLead + col()]; }
  JAXQR_FN T& of_lane(int c) const { return tile_[lane_of_warp() * kLead + c]; }

 private:
  T* tile_;
};

// Fill the registers with rows `first` to m of a matrix of n <= NP columns, and with zeros.
template <class T, int NP, int RP>
JAXQR_FN void load_by_columns(const T* a, int first, int m, int n, T (&x)[RP][NP]) {
#pragma unroll
  for (int s = 0; s < RP; ++s) {
    const int i = row_of(s);
    const bool inside = i >= first && i < m;
#pragma unroll
    for (int c = 0; c < NP; ++c) x[s][c] = inside && c < n ? a[c * m + i] : number<T>(0);
  }
}

// All entries are on their way before the first is waited for: the registers hold them as they
// come, and then pass through the tile.
template <class T, int NP, int RP>
JAXQR_FN void load_by_rows(const T* a, int m, int n, const RowPiece<T>& piece, T (&x)[RP][NP]) {
  constexpr int kCols = RowPiece<T>::kCols;
  const int lane = lane_of_warp(), col = piece.col();
#pragma unroll
  for (int s = 0; s < RP; ++s) {
#pragma unroll
    for (int k = 0; k < kCols; ++k) {
      const int i = row_of(s) - lane + piece.row(k);
      const T* const from = a + (i * n + col);
#pragma unroll
      for (int c = 0; c < NP; c += kCols) {
        x[s][c + k] = i < m && c + col < n ? from[c] : number<T>(0);
      }
    }
  }
#pragma unroll
  for (int s = 0; s < RP; ++s) {
#pragma unroll
    for (int c = 0; c < NP; c += kCols) {
#pragma unroll
      for (int k = 0; k < kCols; ++k) piece.in_order(k) = x[s][c + k];
      __syncwarp();
#pragma unroll
      for (int u = 0; u < kCols; ++u) x[s][c + u] = piece.of_lane(u);
      __syncwarp();
    }
  }
}

// Write rows `first` to `rows` of a matrix from the registers. Register c has column c - offset.
template <class T, int NP, int COUNT>
JAXQR_FN void store_by_columns(const T (&x)[COUNT][NP], int first, int rows, int offset, T* to) {
#pragma unroll
  for (int s = 0; s < COUNT; ++s) {
    const int i = row_of(s);
    T* at = to + (i - offset * rows);
    if (i >= first && i < rows) {
#pragma unroll
      for (int c = 0; c < NP; ++c, at += rows) {
        if (c >= offset) *at = x[s][c];
      }
    }
  }
}

template <class T, int NP, int COUNT>
JAXQR_FN void store_by_rows(const T (&x)[COUNT][NP], int rows, int offset, const RowPiece<T>& piece,
                            T* to) {
  constexpr int kCols = RowPiece<T>::kCols;
  const int lane = lane_of_warp(), n = NP - offset;
#pragma unroll
  for (int s = 0; s < COUNT; ++s) {
    const int begin = row_of(s) - lane;
    if (begin < rows) {  // the same for the whole warp
#pragma unroll
      for (int c = 0; c < NP; c += kCols) {
#pragma unroll
        for (int u = 0; u < kCols; ++u) piece.of_lane(u) = x[s][c + u];
        __syncwarp();
        T entry[kCols];  // all are read before the first is written, so that none waits
#pragma unroll
        for (int k = 0; k < kCols; ++k) entry[k] = piece.in_order(k);
        __syncwarp();
        const int column = c + piece.col() - offset;
#pragma unroll
        for (int k = 0; k < kCols; ++k) {
          const int i = begin + piece.row(k);
          if (i < rows && column >= 0) to[i * n + column] = entry[k];
        }
      }
    }
  }
}

}  // namespace jaxqr
