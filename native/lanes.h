// Batches of small matrices, one matrix in each lane of a vector.
//
// A group of kWidth matrices is packed so that entry (i, j) of all of them is one Pack; the
// arithmetic is then that of a single matrix, written once. Entries are transposed in registers, in
// squares of kWidth consecutive reals of kWidth matrices.
#pragma once

#include <algorithm>

#include "kernels.h"

namespace jaxqr {

// Where the reals of a matrix go: real e of the dense matrix is vector place[e] of the packed one.
// The reals of a complex entry are two vectors in a row, as its Pack is.
using Place = int32_t;

// Pack `count` <= kWidth matrices of `length` reals each; lanes beyond are zero. `readable` is how
// many reals may be read from `from` on: the batch's end.
template <class T>
void pack(const T* from, long length, int count, const Place* place, long readable,
          Vector<T>* to) {
  constexpr int width = kWidth<T>;
  long e = 0;
  if (count == width) {
    while (e < length) {
      // the last square overlaps the one before, or reads on into the next matrices
      const long start = length - e < width && length >= width ? length - width : e;
      if ((width - 1) * length + start + width > readable) break;
      Vector<T> square[width];
      JAXQR_UNROLL
      for (int l = 0; l < width; ++l) square[l] = load_unaligned(from + l * length + start);
      transpose<T>(square);
      const int used = static_cast<int>(std::min<long>(width, length - start));
      if (used == width) {
        JAXQR_UNROLL
        for (int l = 0; l < width; ++l) to[place[start + l]] = square[l];
      } else {
        for (int l = 0; l < used; ++l) to[place[start + l]] = square[l];
      }
      e = start + used;
    }
  }
  for (; e < length; ++e) {
    T* lanes = reinterpret_cast<T*>(&to[place[e]]);
    for (int l = 0; l < count; ++l) lanes[l] = from[l * length + e];
    for (int l = count; l < width; ++l) lanes[l] = 0;
  }
}

// Unpack `count` matrices. `writable` is how many reals from `to` on belong to this thread and are
// written after this by it: where a short matrix's square runs over into the next matrices, in
// ascending order, they are overwritten with their own values later.
template <class T>
void unpack(const Vector<T>* from, long length, int count, const Place* place, long writable,
            T* to) {
  constexpr int width = kWidth<T>;
  long e = 0;
  if (count == width) {
    while (e < length) {
      const long start = length - e < width && length >= width ? length - width : e;
      if ((width - 1) * length + start + width > writable) break;
      Vector<T> square[width];
      const int used = static_cast<int>(std::min<long>(width, length - start));
      if (used == width) {
        JAXQR_UNROLL
        for (int l = 0; l < width; ++l) square[l] = from[place[start + l]];
      } else {
        for (int l = 0; l < used; ++l) square[l] = from[place[start + l]];
        for (int l = used; l < width; ++l) square[l] = Vector<T>{};
      }
      transpose<T>(square);
      JAXQR_UNROLL
      for (int l = 0; l < width; ++l) store_unaligned(to + l * length + start, square[l]);
      e = start + used;
    }
  }
  for (; e < length; ++e) {
    const T* lanes = reinterpret_cast<const T*>(&from[place[e]]);
    for (int l = 0; l < count; ++l) to[l * length + e] = lanes[l];
  }
}

}  // namespace jaxqr
