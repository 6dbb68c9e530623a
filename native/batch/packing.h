// Batches of small matrices, one matrix in each lane of a vector.
//
// A group of kWidth matrices is packed so that entry (i, j) of all of them is one Pack; the
// arithmetic is then that of a single matrix, written once. Entries are transposed in registers, in
// squares of kWidth consecutive reals of kWidth matrices.
#pragma once

#include <algorithm>

#include "common/parallel.h"
#include "common/problems.h"
#include "common/scalars.h"
#include "common/simd.h"

namespace jaxqr {

// Arrays of scalars as arrays of reals, and Packs as vectors of them.
template <class S>
const RealOf<S>* reals(const S* x) {
  return reinterpret_cast<const RealOf<S>*>(x);
}
template <class S>
RealOf<S>* reals(S* x) {
  return reinterpret_cast<RealOf<S>*>(x);
}
template <class S>
Vector<RealOf<S>>* vectors(Pack<S>* x) {
  return reinterpret_cast<Vector<RealOf<S>>*>(x);
}
template <class S>
const Vector<RealOf<S>>* vectors(const Pack<S>* x) {
  return reinterpret_cast<const Vector<RealOf<S>>*>(x);
}

// Where the reals of a matrix go: real e of the dense matrix is vector place[e] of the packed one.
// The reals of a complex entry are two vectors in a row, as its Pack is.
using Place = int32_t;

// The places of a rows x cols matrix whose entry (i, j) is packed into Pack slot(i, j): an order is
// no more than another table. `place` has room for rows * cols * kParts places, and is returned.
template <class S, class Slot>
const Place* fill_places(long rows, long cols, Order order, const Slot& slot, Place* place) {
  const bool by_rows = order == Order::kRows;
  const long lines = by_rows ? rows : cols, length = by_rows ? cols : rows;
  Place* next = place;
  for (long l = 0; l < lines; ++l) {
    for (long e = 0; e < length; ++e) {
      const long first = (by_rows ? slot(l, e) : slot(e, l)) * kParts<S>;
      for (int part = 0; part < kParts<S>; ++part) *next++ = static_cast<Place>(first + part);
    }
  }
  return place;
}

// For fewer reals than this, at a matrix's end, a square is not worth it.
constexpr long kShortest = 3;

// A square holds the reals from here on: the last one overlaps the one before or, if there is none,
// reads and writes over into the next matrices.
template <class T>
JAXQR_INLINE long square_start(long e, long length) {
  return length - e < kWidth<T> && length >= kWidth<T> ? length - kWidth<T> : e;
}

// Whether a group's squares lie within the `reals` that may be touched.
template <class T>
JAXQR_INLINE bool square_fits(long start, long length, long reals) {
  return (kWidth<T> - 1) * length + start + kWidth<T> <= reals;
}

// Call use(place[e], vector) for each of the `length` reals of `count` <= kWidth matrices, one
// matrix in each lane of the vector; lanes beyond are zero. Some may be used twice. `readable` is
// how many reals may be read from `from` on: the batch's end.
template <class T, class Use>
JAXQR_INLINE void each_packed(const T* from, long length, int count, const Place* place,
                              long readable, const Use& use) {
  constexpr int width = kWidth<T>;
  long e = 0;
  while (count == width && length - e >= kShortest) {
    const long start = square_start<T>(e, length);
    if (!square_fits<T>(start, length, readable)) break;
    Vector<T> square[width];
    JAXQR_UNROLL
    for (int l = 0; l < width; ++l) square[l] = load_unaligned(from + l * length + start);
    transpose<T>(square);
    const int used = static_cast<int>(std::min<long>(width, length - start));
    if (used == width) {
      JAXQR_UNROLL
      for (int l = 0; l < width; ++l) use(place[start + l], square[l]);
    } else {
      for (int l = 0; l < used; ++l) use(place[start + l], square[l]);
    }
    e = start + used;
  }
  for (; e < length; ++e) {
    Vector<T> lanes{};
    for (int l = 0; l < count; ++l) lanes[l] = from[l * length + e];
    use(place[e], lanes);
  }
}

// Pack `count` <= kWidth matrices of `length` reals each.
template <class T>
void pack(const T* from, long length, int count, const Place* place, long readable, Vector<T>* to) {
  each_packed<T>(from, length, count, place, readable, [=](Place at, Vector<T> x) { to[at] = x; });
}

// Unpack `count` matrices. `writable` is how many reals from `to` on belong to this thread and are
// written after this by it: where a short matrix's square runs over into the next matrices, in
// ascending order, they are overwritten with their own values later.
template <class T>
void unpack(const Vector<T>* from, long length, int count, const Place* place, long writable,
            T* to) {
  constexpr int width = kWidth<T>;
  long e = 0;
  while (count == width && length - e >= kShortest) {
    const long start = square_start<T>(e, length);
    if (!square_fits<T>(start, length, writable)) break;
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
  for (; e < length; ++e) {
    const T* lanes = reinterpret_cast<const T*>(&from[place[e]]);
    for (int l = 0; l < count; ++l) to[l * length + e] = lanes[l];
  }
}

// The matrices of the first group of `rest`.
template <class T>
int filled_lanes(long rest) {
  return static_cast<int>(std::min<long>(kWidth<T>, rest));
}

// The same for groups of kWidth matrices.
template <class T>
void for_groups(Pool& pool, long batch, double cost, RangeBody body) {
  for_groups(pool, batch, kWidth<T>, cost, body);
}

}  // namespace jaxqr
